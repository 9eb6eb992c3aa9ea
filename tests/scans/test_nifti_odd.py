"""NIfTI headers as real files have them, beside nibabel and SimpleITK."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy.spatial.transform import Rotation
from test_read_files import itk_affine, refused, save_nifti, voxels

from situs.scans.read import read_scan

SIZES = np.array([1.5625, 1.5625, 10.0])
TILTED = np.eye(4)
TILTED[:3, :3] = Rotation.from_euler("xyz", (40, -20, 65), degrees=True).as_matrix() * SIZES
TILTED[:3, 3] = (-30, 12, 80)
UNIT = {"sform_code": 1, "srow_x": [1, 0, 0, 0], "srow_y": [0, 1, 0, 0], "srow_z": [0, 0, 1, 0]}


def with_qform(path: Path, qform: np.ndarray, **fields) -> Path:
    image = nib.Nifti1Image(voxels(), None)
    image.set_qform(qform, code=1)
    image.set_sform(np.eye(4), code=0)
    nib.save(image, path)
    raw = bytearray(path.read_bytes())
    header = np.frombuffer(raw, nib.nifti1.header_dtype, count=1)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("qfac", [0, 0.5, -3])
def test_qfac_counts_by_its_sign(tmp_path: Path, qfac: float) -> None:
    mirrored = TILTED @ np.diag([1, 1, -1.0 if qfac < 0 else 1.0, 1])
    path = with_qform(tmp_path / "a.nii", mirrored, pixdim=[qfac, *SIZES, 0, 0, 0, 0])
    scan = read_scan(path)
    np.testing.assert_allclose(scan.affine, mirrored, atol=1e-5)
    assert "qfac" in scan.provenance.notes[0]
    np.testing.assert_allclose(scan.affine, itk_affine(sitk.ReadImage(str(path))), atol=1e-4)


def test_quaternion_rounded_past_one(tmp_path: Path) -> None:
    half = {"quatern_b": 0.707107, "quatern_c": 0.707107, "quatern_d": 0}
    path = with_qform(tmp_path / "a.nii", np.diag([*SIZES, 1]), **half)
    scan = read_scan(path)
    np.testing.assert_allclose(scan.affine, itk_affine(sitk.ReadImage(str(path))), atol=1e-4)
    assert "quaternion" in scan.provenance.notes[0]
    path = with_qform(tmp_path / "b.nii", np.diag([*SIZES, 1]), quatern_b=0.9, quatern_c=0.9)
    refused(path, "bad-orientation")


@pytest.mark.parametrize("odd", [0.0, -1.0, np.nan])
def test_sform_needs_no_voxel_sizes(tmp_path: Path, odd: float) -> None:
    fields = {"pixdim": [1, odd, odd, 1, 1, 1, 1, 1], "qform_code": 1}
    scan = read_scan(save_nifti(tmp_path / "a.nii", voxels(), TILTED, **fields))
    np.testing.assert_allclose(scan.affine, TILTED, atol=1e-5)
    assert scan.provenance.notes == ("sform used; pixdim gives no voxel size",)


def test_a_unit_matrix_beside_voxel_sizes_is_a_placeholder(tmp_path: Path) -> None:
    """As in public copies of ACDC: where the qform agrees with pixdim, and where there is none."""
    path = with_qform(tmp_path / "a.nii", TILTED, **UNIT)
    scan = read_scan(path)
    np.testing.assert_allclose(scan.affine, TILTED, atol=1e-5)
    assert "unit matrix" in scan.provenance.notes[0]
    path = with_qform(tmp_path / "b.nii", TILTED, **UNIT, qform_code=0)
    scan = read_scan(path)
    np.testing.assert_allclose(scan.affine, np.diag([*SIZES, 1]), atol=1e-5)
    # ITK takes the size from pixdim as well; nibabel would say 1 mm.
    np.testing.assert_allclose(sitk.ReadImage(str(path)).GetSpacing(), SIZES, rtol=1e-6)
    assert "not known" in scan.provenance.notes[1]
    same = save_nifti(tmp_path / "c.nii", voxels(), np.eye(4))
    assert read_scan(same).provenance.notes == ()


def test_a_sform_of_nothing_leaves_the_qform(tmp_path: Path) -> None:
    nothing = {"sform_code": 1, "srow_x": [0] * 4, "srow_y": [0] * 4, "srow_z": [0] * 4}
    path = with_qform(tmp_path / "a.nii", TILTED, **nothing)
    scan = read_scan(path)
    np.testing.assert_allclose(scan.affine, TILTED, atol=1e-5)
    assert "qform used" in scan.provenance.notes[0]
    np.testing.assert_allclose(scan.affine, itk_affine(sitk.ReadImage(str(path))), atol=1e-4)


@pytest.mark.parametrize("names", [("A.HDR", "A.IMG"), ("A.hdr", "a.IMG"), ("a.HDR", "a.img")])
def test_pairs_in_capitals(tmp_path: Path, names: tuple[str, str]) -> None:
    nib.save(nib.Nifti1Pair(voxels(), TILTED), tmp_path / "x.img")
    (tmp_path / "x.hdr").rename(tmp_path / names[0])
    (tmp_path / "x.img").rename(tmp_path / names[1])
    scan = read_scan(tmp_path / names[0])
    np.testing.assert_array_equal(scan.array[0], voxels())
    np.testing.assert_allclose(scan.affine, TILTED, atol=1e-5)


@pytest.mark.parametrize("behind", [b"x", b"junk" * 1000, b"\x1f\x8bjunk", b"\0" * 700 + b"x"])
@pytest.mark.parametrize("packed", [False, True])
def test_bytes_behind_are_noted(tmp_path: Path, behind: bytes, packed: bool) -> None:
    raw = save_nifti(tmp_path / "a.nii", voxels()).read_bytes()
    path = tmp_path / ("b.nii.gz" if packed else "b.nii")
    if packed and behind.startswith(b"\x1f\x8b"):
        path.write_bytes(gzip.compress(raw) + behind)
        refused(path, "truncated-file")  # a second gzip member that is damaged
        return
    path.write_bytes((gzip.compress(raw) if packed else raw) + behind)
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.array[0], voxels())
    assert scan.provenance.notes == ("bytes behind the voxels were left out",)


def test_gzip_in_members_and_padding(tmp_path: Path) -> None:
    raw = save_nifti(tmp_path / "a.nii", voxels((30, 20, 10))).read_bytes()
    path = tmp_path / "b.nii.gz"
    members = [gzip.compress(raw[i : i + 777]) for i in range(0, len(raw), 777)]
    path.write_bytes(b"".join(members) + b"\0" * 3000)
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.array[0], voxels((30, 20, 10)))
    assert scan.provenance.notes == ()
    four = save_nifti(tmp_path / "t.nii.gz", voxels((7, 6, 5, 4)))
    np.testing.assert_array_equal(read_scan(four, 2).array[0], voxels((7, 6, 5, 4))[..., 2])


def test_line_ends_of_nifti_2_that_were_converted(tmp_path: Path) -> None:
    """Transferred as text: the header's own check says that voxels are damaged, too."""
    nib.save(nib.Nifti2Image(voxels(), TILTED), tmp_path / "a.nii")
    raw = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii").write_bytes(raw[:8] + b"\n\x1a\n\0" + raw[12:])
    refused(tmp_path / "b.nii", "unreadable-file")


def test_places_that_no_scanner_has(tmp_path: Path) -> None:
    far = TILTED.copy()
    far[0, 3] = 1e30
    refused(with_qform(tmp_path / "a.nii", far), "singular-affine")


def test_where_voxels_start(tmp_path: Path) -> None:
    """0 is behind the header. Before byte 352 no two readers agree: it must fit to the last byte.

    nibabel takes 0 by its word, and the header for voxels.
    """
    plain = save_nifti(tmp_path / "a.nii", voxels(), TILTED)
    header, data = plain.read_bytes()[:348], plain.read_bytes()[352:]
    for offset in (0, 348):
        path = save_nifti(tmp_path / f"{offset}.nii", voxels(), TILTED, vox_offset=offset)
        (tmp_path / f"{offset}.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    for suffix in ("nii", "nii.gz"):
        scan = read_scan(tmp_path / f"0.{suffix}")
        np.testing.assert_array_equal(scan.array[0], voxels())
        assert any("vox_offset" in note for note in scan.provenance.notes)
        # Four bytes are left over, so that the voxels would be shifted by them.
        refused(tmp_path / f"348.{suffix}", "unreadable-file")
    early = np.frombuffer(bytearray(header), nib.nifti1.header_dtype, count=1)
    early["vox_offset"] = 348
    (tmp_path / "d.nii").write_bytes(early.tobytes() + data)
    np.testing.assert_array_equal(read_scan(tmp_path / "d.nii").array[0], voxels())


def test_a_nii_with_the_magic_of_a_pair_holds_its_voxels(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii", voxels(), TILTED, magic=b"ni1")
    np.testing.assert_array_equal(read_scan(path).array[0], voxels())
    np.testing.assert_array_equal(np.asanyarray(nib.load(path).dataobj), voxels())
