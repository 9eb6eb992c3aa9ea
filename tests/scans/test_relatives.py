"""Relatives of what other tools' users reported: read rightly, or refused for the right reason."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_files import jpeg_lossless, noise, write_series
from pydicom.uid import JPEGLSLossless
from refusing import refused

import situs
from situs.scans.read import read_scan

SHAPE = (9, 8, 7)
AFFINE = np.array([[-0.8, 0, 0, 10], [0, 0.7, 0, -20], [0, 0, 2.5, 5], [0, 0, 0, 1.0]])


def meta(path: Path, **fields: str) -> Path:
    told = {
        "ObjectType": "Image",
        "NDims": "3",
        "Offset": "0 0 0",
        "ElementSpacing": "0.8 0.7 2.5",
        "DimSize": "9 8 7",
        "ElementType": "MET_SHORT",
    } | fields
    head = "".join(f"{key} = {value}\n" for key, value in told.items() if value)
    path.write_bytes(f"{head}ElementDataFile = LOCAL\n".encode() + noise(SHAPE).tobytes(order="F"))
    return path


def test_a_field_in_other_capitals_is_one_that_metaio_leaves_out(tmp_path: Path) -> None:
    np.testing.assert_allclose(read_scan(meta(tmp_path / "a.mha")).spacing, [0.8, 0.7, 2.5])
    file = meta(tmp_path / "b.mha", ElementSpacing="", elementspacing="0.8 0.7 2.5")
    assert "elementspacing" in refused(file, "unreadable-file").detail


@pytest.mark.parametrize("kinds", ["kinds: domain domain domain\n", ""])
def test_an_axis_of_space_without_direction_has_no_size(tmp_path: Path, kinds: str) -> None:
    head = "NRRD0005\ntype: short\ndimension: 3\nspace: LPS\nsizes: 9 8 7\n"
    head += f"space directions: (0.8,0,0) (0,0.7,0) none\n{kinds}endian: little\nencoding: raw\n"
    file = tmp_path / "a.nrrd"
    file.write_bytes(head.encode() + b"\n" + noise(SHAPE).tobytes(order="F"))
    assert "no direction" in refused(file, "bad-spacing").detail


def test_sizes_of_nifti_behind_those_of_space(tmp_path: Path) -> None:
    """0 is 1, as in nifti1_io; a vector's components, on the fifth axis, are volumes."""
    raw = bytearray(nib.Nifti1Image(noise(SHAPE), AFFINE).to_bytes())
    header = np.frombuffer(raw, nib.nifti1.header_dtype, count=1)
    header["dim"] = [5, *SHAPE, 1, 0, 1, 1]
    (tmp_path / "a.nii").write_bytes(raw)
    np.testing.assert_array_equal(read_scan(tmp_path / "a.nii").array[0], noise(SHAPE))
    vectors = noise((*SHAPE, 1, 3))
    nib.save(nib.Nifti1Image(vectors, AFFINE), tmp_path / "b.nii.gz")
    refused(tmp_path / "b.nii.gz", "four-dimensional")
    scan = read_scan(tmp_path / "b.nii.gz", "all")
    np.testing.assert_array_equal(scan.array, np.moveaxis(vectors[..., 0, :], -1, 0))
    one = read_scan(tmp_path / "b.nii.gz", 1)
    np.testing.assert_array_equal(one.array[0], vectors[..., 0, 1])
    nib.save(nib.Nifti1Image(noise((*SHAPE, 2, 3)), AFFINE), tmp_path / "c.nii")
    refused(tmp_path / "c.nii", "four-dimensional", volume="all")


@pytest.mark.parametrize("name", ["a.mgz", "b.mgh", "b.mgh.gz"])
def test_mgh_is_packed_where_it_begins_so(tmp_path: Path, name: str) -> None:
    nib.save(nib.MGHImage(noise(SHAPE).astype(np.int32), AFFINE), tmp_path / "plain.mgh")
    raw = (tmp_path / "plain.mgh").read_bytes()
    file, packed = tmp_path / name, name.startswith("b")
    file.write_bytes(gzip.compress(raw) if packed else raw)
    scan = read_scan(file)
    np.testing.assert_array_equal(scan.array[0], noise(SHAPE))
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-5)
    if packed:  # a checksum that does not agree
        damaged = bytearray(file.read_bytes())
        damaged[-8] ^= 1
        file.write_bytes(damaged)
        refused(file, "truncated-file")


def test_whoever_names_the_voxels_means_the_pair(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(noise(SHAPE), AFFINE), tmp_path / "a.img")
    (tmp_path / "a.img").rename(tmp_path / "A.IMG")
    (tmp_path / "a.hdr").rename(tmp_path / "A.HDR")
    np.testing.assert_array_equal(read_scan(tmp_path / "A.IMG").array[0], noise(SHAPE))
    (tmp_path / "A.HDR").unlink()
    refused(tmp_path / "A.IMG", "not-an-image")


def test_twelve_signed_bits_keep_their_sign_however_they_are_packed(tmp_path: Path) -> None:
    voxels = noise((12, 10, 4)) - 500
    files = write_series(
        tmp_path / "a",
        (voxels & 0xFFF).astype(np.uint16),
        BitsStored=12,
        HighBit=11,
        PixelRepresentation=0,
    )
    for file in files:
        ds = pydicom.dcmread(file)
        ds.compress(JPEGLSLossless, generate_instance_uid=False)
        ds.PixelRepresentation = 1
        ds.save_as(file)
    np.testing.assert_array_equal(read_scan(tmp_path / "a").array[0], voxels)


def test_damaged_fragments_are_refused_before_they_reach_a_decoder(tmp_path: Path) -> None:
    """GDCM looks for the end of such a file for ever."""
    files = write_series(tmp_path / "a", noise((34, 33, 4)))
    for file in files:
        jpeg_lossless(file)
    raw = files[0].read_bytes()
    place = raw.find(b"\xe0\x7f\x10\x00")
    half = len(raw[place:]) // 2
    files[0].write_bytes(raw[: place + half] + raw[place + half // 2 :])
    assert "damaged" in refused(tmp_path / "a", "truncated-file").detail


def test_a_limit_of_time_reads_in_a_process_of_its_own(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(noise(SHAPE), AFFINE), tmp_path / "a.nii")
    scan = read_scan(tmp_path / "a.nii", limit_s=300)
    np.testing.assert_array_equal(scan.array[0], noise(SHAPE))
    refused(tmp_path / "a.nii", "timed-out", limit_s=1e-4)
    shutil.copyfile(tmp_path / "a.nii", tmp_path / "b.nii")
    (tmp_path / "b.nii").write_bytes(b"short")
    refused(tmp_path / "b.nii", "truncated-file", limit_s=300)


def test_values_that_stand_at_the_upper_end_of_their_bits(tmp_path: Path) -> None:
    """By PS3.5 8.1.1; pydicom and ITK 5.4 take the low bits and so lose the high ones.

    Values below them say that one of the two, BitsStored or HighBit, is not true.
    """
    voxels = noise((12, 10, 4)) - 500
    stored = voxels.astype(np.int16) << 4
    for name, more in (("a", 0), ("b", 5)):
        said = {"BitsStored": 12, "HighBit": 15, "PixelRepresentation": 1}
        write_series(tmp_path / name, stored | more, **said)
    np.testing.assert_array_equal(read_scan(tmp_path / "a").array[0], voxels)
    assert "HighBit" in refused(tmp_path / "b", "unreadable-file").detail


@pytest.mark.parametrize(("kind", "dtype"), [("Float", "<f4"), ("DoubleFloat", "<f8")])
def test_padding_of_numbers_with_a_point(tmp_path: Path, kind: str, dtype: str) -> None:
    voxels = noise((12, 10, 4))
    voxels[:2] = 5000
    for file in write_series(tmp_path / "a", voxels):
        ds = pydicom.dcmread(file)
        values = ds.pixel_array.astype(dtype)
        del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
        ds.BitsAllocated = 8 * values.itemsize
        setattr(ds, f"{kind}PixelData", values.tobytes())
        setattr(ds, f"{kind}PixelPaddingValue", 5000.0)
        ds.save_as(file)
    voxels[:2] = voxels[2:].min()
    np.testing.assert_array_equal(read_scan(tmp_path / "a").array[0], voxels)


@pytest.mark.parametrize("left", [b"this is text", b"\0" * 128 + b"DICM" + bytes(40)])
def test_a_slice_that_is_dicom_no_more_is_not_passed_over(tmp_path: Path, left: bytes) -> None:
    """The stack without its last slice would look whole."""
    files = write_series(tmp_path / "a", noise((12, 10, 4)))
    files[-1].write_bytes(left * 20)
    with pytest.raises(situs.ScanRefused) as caught:
        read_scan(tmp_path / "a")
    assert caught.value.reason in ("unreadable-file", "truncated-file")


def test_a_rescale_that_is_no_number_is_not_the_default(tmp_path: Path) -> None:
    for file in write_series(tmp_path / "a", noise((12, 10, 4)), intercepts=[-1024] * 4):
        raw = file.read_bytes()
        file.write_bytes(raw.replace(b"-1024", b"-1\x8f24"))
    assert "RescaleIntercept" in refused(tmp_path / "a", "unreadable-file").detail


def test_a_voxel_of_kilometres_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(noise(SHAPE), np.diag([1, 1, 1e9, 1])), tmp_path / "a.nii")
    refused(tmp_path / "a.nii", "bad-spacing")


@pytest.mark.parametrize("encoding", ["bzip2", "gzip"])
def test_no_flipped_bit_of_a_packed_nrrd_gives_other_voxels(tmp_path: Path, encoding: str) -> None:
    """A damaged block of bzip2 may go on behind the voxels: its checksum stands at its end."""
    voxels = noise(SHAPE) % 100
    head = "NRRD0005\ntype: short\ndimension: 3\nspace: LPS\nsizes: 9 8 7\nendian: little\n"
    head += f"space directions: (1,0,0) (0,1,0) (0,0,1)\nencoding: {encoding}\n\n"
    pack = bz2.compress if encoding == "bzip2" else gzip.compress
    whole = pack(voxels.tobytes(order="F"))
    for place in range(0, len(whole), 5):
        raw = bytearray(whole)
        raw[place] ^= 1 << (place % 8)
        (tmp_path / "a.nrrd").write_bytes(head.encode() + raw)
        with contextlib.suppress(situs.ScanRefused):
            np.testing.assert_array_equal(read_scan(tmp_path / "a.nrrd").array[0], voxels)
