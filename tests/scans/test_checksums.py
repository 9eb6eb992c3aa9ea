"""Packed voxels are compared with their checksum in every format that has one."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from test_read_files import refused, voxels

from situs.errors import ScanRefused
from situs.scans.read import read_scan

SHIPPED = Path(nib.__file__).parent / "tests" / "data"


def afni(folder: Path) -> tuple[Path, Path]:
    for kind in ("HEAD", "BRIK.gz"):
        shutil.copyfile(SHIPPED / f"example4d+orig.{kind}", folder / f"a+orig.{kind}")
    return folder / "a+orig.HEAD", folder / "a+orig.BRIK.gz"


def analyze(folder: Path) -> tuple[Path, Path]:
    nib.save(nib.Spm99AnalyzeImage(voxels(), np.diag([-2.0, 2, 2, 1])), folder / "a.img")
    packed = folder / "a.img.gz"
    packed.write_bytes(gzip.compress((folder / "a.img").read_bytes()))
    (folder / "a.img").unlink()
    return folder / "a.hdr", packed


def nifti(folder: Path) -> tuple[Path, Path]:
    four = np.stack([voxels(), voxels() + 1], axis=3).astype(np.float32)
    nib.save(nib.Nifti1Image(four, np.eye(4)), folder / "a.nii.gz")
    return folder / "a.nii.gz", folder / "a.nii.gz"


@pytest.mark.parametrize("write", [afni, analyze, nifti])
def test_a_changed_or_missing_byte_is_never_read(
    tmp_path: Path, write: Callable[[Path], tuple[Path, Path]]
) -> None:
    """Refused, or the same voxels: the first volume alone is trusted no more than all."""
    path, packed = write(tmp_path)
    volume = None if write is analyze else 0
    whole, first = packed.read_bytes(), read_scan(path, volume)
    damaged = [whole[:-1], whole[:-9], whole[: len(whole) // 2]]
    for place in np.linspace(20, len(whole) - 1, 40).astype(int):
        damaged.append(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    refusals = 0
    for raw in damaged:
        packed.write_bytes(raw)
        try:
            scan = read_scan(path, volume)
        except ScanRefused:
            refusals += 1
        else:
            np.testing.assert_array_equal(scan.array, first.array)
            np.testing.assert_array_equal(scan.affine, first.affine)
    assert refusals >= len(damaged) - 2


@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "mha"])
def test_what_goes_on_behind_the_voxels(tmp_path: Path, suffix: str) -> None:
    """A few bytes are left out; what unpacks to megabytes is refused as that, not as cut off."""
    path = tmp_path / f"a.{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(voxels().T), str(path), useCompression=False)
    raw = path.read_bytes() if suffix != "nii.gz" else gzip.decompress(path.read_bytes())
    size = voxels().nbytes
    head, body = raw[:-size], raw[-size:]
    head = head.replace(b"encoding: raw", b"encoding: gzip")
    head = head.replace(b"CompressedData = False", b"CompressedData = True")
    for more, reason in ((100, None), (2**25, "absurd-header")):
        behind = body + bytes(more)
        packed = (
            head + gzip.compress(behind) if suffix != "nii.gz" else gzip.compress(head + behind)
        )
        path.write_bytes(packed)
        if reason:
            refused(path, reason)
        else:
            np.testing.assert_array_equal(read_scan(path).array[0], voxels())


@pytest.mark.parametrize("named", ["LIST", "LIST 2", "slice%02d.raw 1 5 1"])
def test_voxels_in_several_files(tmp_path: Path, named: str) -> None:
    lines = "NRRD0004\ntype: float\ndimension: 3\nsizes: 7 6 5\nendian: little\nencoding: raw\n"
    (tmp_path / "a.nhdr").write_text(f"{lines}data file: {named}\n0.raw\n1.raw\n")
    refused(tmp_path / "a.nhdr", "several-files")
