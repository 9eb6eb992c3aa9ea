"""MGH, MINC, PAR/REC, AFNI and Analyze: what nibabel ships, and geometry from other sources."""

from __future__ import annotations

import gzip
import re
import shutil
import struct
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy.io import savemat
from test_read_files import refused, voxels

import situs
from situs.scans.read import read_scan

SHIPPED = Path(nib.__file__).parent / "tests" / "data"
AFFINE = np.array([[0.0, 1.5, 0, -9], [-2, 0, 0, 7], [0, 0, 3, 11], [0, 0, 0, 1]])

# Shape and spacing of what is read, all volumes.
READ = {
    "anatomical.nii": ((1, 33, 41, 25), (2, 2, 2)),
    "example4d+orig.HEAD": ((3, 33, 41, 25), (3, 3, 3)),
    "example4d.nii.gz": ((2, 128, 96, 24), (2, 2, 2.2)),
    "example_nifti2.nii.gz": ((2, 32, 20, 12), (2, 2, 2.2)),
    "functional.nii": ((20, 17, 21, 3), (4, 4, 8)),
    "minc1-no-att.mnc": ((1, 10, 20, 20), (1, 1, 1)),
    "minc1_1_scale.mnc": ((1, 10, 20, 20), (2, 2, 2)),
    "minc1_4d.mnc": ((2, 10, 20, 20), (2, 2, 2)),
    "minc2-4d-d.mnc": ((5, 16, 16, 16), (1, 1, 1)),
    "minc2-no-att.mnc": ((1, 10, 20, 20), (1, 1, 1)),
    "minc2_1_scale.mnc": ((1, 10, 20, 20), (2, 2, 2)),
    "minc2_4d.mnc": ((2, 10, 20, 20), (2, 2, 2)),
    "minc2_baddim.mnc": ((1, 10, 10, 10), (0.035, 0.035, 0.035)),
    "phantom_EPI_asc_CLEAR_2_1.PAR": ((3, 64, 64, 9), (3.75, 3.75, 8)),
    "phantom_varscale.PAR": ((3, 64, 64, 9), (3.75, 3.75, 8)),
    "reoriented_anat_moved.nii": ((1, 21, 26, 22), (4, 4, 4)),
    "scaled+tlrc.HEAD": ((1, 47, 54, 43), (3, 3, 3)),
    "small.mnc": ((1, 18, 28, 29), (9, 8, 7)),
    "standard.nii.gz": ((1, 4, 5, 7), (1, 3, 2)),
    "tiny.mnc": ((1, 10, 20, 20), (2, 2, 2)),
}
# Why the rest is not: streamlines, programs, and voxels apart from their header are no images.
WHY = {
    "not-an-image": r".*\.(trk|tck|py|m|rst|REC|BRIK|gz|v)|\.gitignore",
    "missing-file": r".*\.(PAR|HEAD|hdr)",  # shipped without their voxels
    "unsupported-dicom": r"[01]\.dcm",  # mosaics that do not tell how many slices
    "truncated-file": r"phantom_truncated\.(PAR|REC)",
    "non-finite": r"resampled_anat_moved\.nii",
    "four-dimensional": r"row_major\.dconn\.nii",  # a connectivity matrix
    "sheared-affine": r"test\.mgz",  # direction cosines invented for a test
}


def test_every_file_that_nibabel_ships() -> None:
    read, why = {}, {}
    for path in sorted(f for f in SHIPPED.iterdir() if f.is_file()):
        try:
            scan = read_scan(path, "all")
        except situs.ScanRefused as error:
            why[path.name] = error.reason
        else:
            read[path.name] = scan
    assert set(READ) <= set(read)
    for name, (shape, spacing) in READ.items():
        assert read[name].array.shape == shape
        np.testing.assert_allclose(read[name].spacing, spacing, rtol=1e-4)
    for name, reason in why.items():
        assert re.fullmatch(WHY[reason], name), (name, reason)
    assert set(Counter(why.values())) == set(WHY)


@pytest.mark.parametrize("name", ["small", "minc2_1_scale", "minc2_4d", "minc2-4d-d"])
def test_minc_as_itk_reads_it(name: str) -> None:
    """ITK leaves MINC's coordinates as they are, which is RAS, and turns the axes round."""
    scan = read_scan(SHIPPED / f"{name}.mnc", "all")
    image = sitk.ReadImage(str(SHIPPED / f"{name}.mnc"), imageIO="MINCImageIO")
    values = sitk.GetArrayFromImage(image).reshape(*image.GetSize()[::-1], -1)
    turned = [0, 1, 2] if name == "minc2-4d-d" else [2, 1, 0]  # that file holds x, y, z in order
    values = values.transpose(*[2 - axis for axis in turned], 3)
    np.testing.assert_allclose(np.moveaxis(scan.array, 0, -1), values, rtol=1e-5)
    for corner in ((0, 0, 0), (1, 0, 0), (0, 2, 0), (3, 2, 1)):
        here = scan.affine[:3, :3] @ np.array(corner)[turned] + scan.affine[:3, 3]
        there = image.TransformIndexToPhysicalPoint(corner)
        np.testing.assert_allclose(here, there, atol=1e-6)


def test_afni_lies_where_its_own_header_says() -> None:
    """IJK_TO_DICOM_REAL takes voxels to mm towards left, posterior, superior."""
    path = SHIPPED / "example4d+orig.HEAD"
    found = re.search(r"IJK_TO_DICOM_REAL\s+count = 12\s+([-\d.e\s]+)", path.read_text())
    assert found
    lps = np.vstack([np.array(found[1].split()[:12], float).reshape(3, 4), [0, 0, 0, 1]])
    scan = read_scan(path, 0)
    np.testing.assert_allclose(scan.affine, np.diag([-1, -1, 1, 1]) @ lps, atol=1e-4)
    raw = gzip.decompress((SHIPPED / "example4d+orig.BRIK.gz").read_bytes())
    count = int(np.prod(scan.shape))
    order = ">" if "MSB_FIRST" in path.read_text() else "<"
    first = np.frombuffer(raw, f"{order}i2", count).reshape(scan.shape, order="F")
    np.testing.assert_array_equal(scan.array[0], first)


def test_par_rec_values_and_centre() -> None:
    """Against the text of the PAR file: off-centre in mm, slope and intercept of each slice."""
    path = SHIPPED / "phantom_varscale.PAR"
    text = path.read_text()
    ap, fh, rl = map(float, re.search(r"Off Centre midslice.*:\s+(.*)", text)[1].split())  # type: ignore[index]
    scan = read_scan(path, "all")
    middle = (np.array(scan.shape) - 1) / 2
    # Philips counts towards left, posterior, head; the stack's middle lies at the off-centre.
    centre = scan.affine[:3, :3] @ middle + scan.affine[:3, 3]
    half = np.abs(scan.affine[:3, :3]).sum(1) / 2  # half a voxel either way
    assert (np.abs(centre - [-rl, -ap, fh]) <= half + 1e-3).all()
    lines = [line.split() for line in text.splitlines() if re.match(r"\s*\d+\s+\d+\s+\d+ ", line)]
    stored = np.fromfile(path.with_suffix(".REC"), "<u2").reshape(-1, 64, 64)
    for line in lines:
        slice_, dynamic, index = int(line[0]) - 1, int(line[2]) - 1, int(line[6])
        intercept, slope = float(line[11]), float(line[12])
        want = stored[index].astype(float) * slope + intercept
        np.testing.assert_allclose(scan.array[dynamic, :, :, slice_], want.T, rtol=1e-5)


@pytest.mark.parametrize("suffix", ["mgh", "mgz", "MGZ"])
def test_mgh_lies_where_freesurfer_puts_it(tmp_path: Path, suffix: str) -> None:
    """By FreeSurfer's definition: the centre c_ras belongs to voxel size / 2."""
    path = tmp_path / f"a.{suffix.lower()}"
    nib.save(nib.MGHImage(voxels(), AFFINE), path)
    path = path.rename(tmp_path / f"a.{suffix}")
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.array[0], voxels())
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if suffix != "mgh" else raw
    size, rest = struct.unpack(">4i", raw[4:20])[:3], struct.unpack(">15f", raw[30:90])
    cosines = np.array(rest[3:12]).reshape(3, 3).T * rest[:3]
    np.testing.assert_allclose(scan.affine[:3, :3], cosines, atol=1e-6)
    centre = scan.affine[:3, :3] @ (np.array(size) / 2) + scan.affine[:3, 3]
    np.testing.assert_allclose(centre, rest[12:15], atol=1e-5)
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-5)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    refused(path, "truncated-file")


def test_analyze_and_spm(tmp_path: Path) -> None:
    counts = np.rint(voxels() * 50).astype(np.int16)
    nib.save(nib.Spm99AnalyzeImage(counts, np.diag([-2.0, 2, 3, 1])), tmp_path / "a.img")
    (tmp_path / "a.mat").unlink(missing_ok=True)
    scan = read_scan(tmp_path / "a.hdr")
    np.testing.assert_array_equal(scan.array[0], counts)
    assert (scan.orientation, scan.spacing) == ("LAS", (2, 2, 3))
    assert "left from right" in scan.provenance.notes[0]
    # SPM's matrix counts voxels from 1.
    from_one = np.eye(4)
    from_one[:3, 3] = -1
    savemat(tmp_path / "a.mat", {"M": AFFINE @ from_one, "mat": AFFINE @ from_one}, format="4")
    (tmp_path / "a.img").rename(tmp_path / "A.IMG")
    (tmp_path / "a.hdr").rename(tmp_path / "A.HDR")
    scan = read_scan(tmp_path / "A.HDR")
    np.testing.assert_allclose(scan.affine, AFFINE)
    assert scan.provenance.notes == ()
    (tmp_path / "a.mat").unlink()
    raw = bytearray((tmp_path / "A.HDR").read_bytes())
    raw[252] = 2
    (tmp_path / "A.HDR").write_bytes(raw)
    refused(tmp_path / "A.HDR", "bad-orientation")
    (tmp_path / "A.IMG").write_bytes(b"short")
    raw[252] = 0
    (tmp_path / "A.HDR").write_bytes(raw)
    refused(tmp_path / "A.HDR", "truncated-file")


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ("phantom_varscale.PAR", "phantom_varscale.REC"),
        ("example4d+orig.HEAD", "example4d+orig.BRIK.gz"),
        ("scaled+tlrc.HEAD", "scaled+tlrc.BRIK"),
        ("small.mnc", "small.mnc"),
        ("tiny.mnc", "tiny.mnc"),
    ],
)
def test_shortened(tmp_path: Path, header: str, data: str) -> None:
    for name in {header, data}:
        shutil.copyfile(SHIPPED / name, tmp_path / name)
    read_scan(tmp_path / header, "all")
    whole = (SHIPPED / data).read_bytes()
    (tmp_path / data).write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(situs.ScanRefused) as caught:
        read_scan(tmp_path / header, "all")
    assert caught.value.reason in ("truncated-file", "unreadable-file")
