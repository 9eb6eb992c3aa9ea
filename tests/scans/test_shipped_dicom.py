"""DICOM that nibabel and pydicom ship beside what other tests take: what is read, why the rest not.

Read from the installed packages; ``test_dicom_odd`` and ``test_nibabel_formats`` hold the tables of
their main folders.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

import situs
from situs.scans.read import read_scan

NIBABEL = Path(nib.__file__).parent
PYDICOM = Path(pydicom.__file__).parent / "data"
SERIES = PYDICOM / "test_files" / "dicomdirtests"

# nibabel's folder for Siemens and other DICOM, single slices accepted. Headers of scanners whose
# pixels were emptied are constant.
NICOM = {
    "slicethickness_empty_string.dcm": "read",
    r"csa2?_.*\.bin(\.gz)?|ascconv_sample\.txt": "not-an-image",  # parts of private headers
    r"csa_slice_norm\.dcm": "no-pixels",
    r"decimal_rescale\.dcm|philips_mprage\.dcm\.gz|siemens_dwi_.*\.dcm\.gz": "constant-image",
    r"[01]\.dcm": "unsupported-dicom",  # mosaics that do not tell how many slices
}

# Series that pydicom ships as folders: shape and step, or why not; most hold few of their slices.
FOLDERS: dict[str, tuple[tuple[int, ...], float] | str] = {
    "98892001/CT5N": ((1, 16, 16, 5), 2.5),
    "98892001": ((1, 16, 16, 5), 2.5),  # the same, beside two localizers
    "98892001/CT2N": "mixed-orientation",  # the localizers
    "98892003/MR1": "several-series",  # three planes
    "98892003/MR2": "several-series",
    "98892003/MR700": "mixed-orientation",  # seven slices turned about an axis
    "77654033/CT2": "irregular-spacing",
    "77654033/CR1": "no-geometry",
    "TINY_ALPHA": "no-pixels",
    ".": "several-series",
}
# Objects of other kinds, by where they lie: what is said of them.
OTHERS = {
    "charset_files/chr*.dcm": "no-geometry|no-pixels",  # captures, and headers alone
    "palettes/*.dcm": r"not-an-image.*\(Color Palette\)",
    "test_files/dicomdirtests/DICOMDIR*": "not-an-image.*give the folder",
}


def outcome(path: Path, **options: Any) -> tuple[str, str]:
    try:
        read_scan(path, **options)
    except situs.ScanRefused as error:
        return error.reason, error.detail
    return "read", ""


def test_every_dicom_that_nibabel_ships() -> None:
    files = sorted((NIBABEL / "nicom" / "tests" / "data").iterdir())
    assert len(files) >= 14
    met = {path.name: outcome(path, planes=True)[0] for path in files}
    for pattern, expected in NICOM.items():
        found = {name: met.pop(name) for name in list(met) if re.fullmatch(pattern, name)}
        assert set(found.values()) == {expected}, found
    assert not met
    scan = read_scan(files[-1], planes=True)
    theirs = pydicom.dcmread(files[-1])
    np.testing.assert_array_equal(scan.array[0, ..., 0], theirs.pixel_array.T)
    np.testing.assert_allclose(scan.spacing[:2], theirs.PixelSpacing[::-1])


@pytest.mark.parametrize("folder", ["gifti", "externals"])
def test_surfaces_and_bare_netcdf_are_no_images(folder: str) -> None:
    for path in (NIBABEL / folder / "tests" / "data").iterdir():
        assert outcome(path)[0] == "not-an-image"


@pytest.mark.skipif(not SERIES.is_dir(), reason="this wheel of pydicom ships no folders")
def test_the_folders_that_pydicom_ships() -> None:
    for name, expected in FOLDERS.items():
        if isinstance(expected, str):
            assert outcome(SERIES / name, planes=True)[0] == expected, name
        else:
            scan = read_scan(SERIES / name)
            assert (scan.array.shape, scan.spacing[2]) == expected
    scan = read_scan(SERIES / "98892001" / "CT5N")
    slices = sorted(
        map(pydicom.dcmread, (SERIES / "98892001" / "CT5N").iterdir()),
        key=lambda ds: float(ds.ImagePositionPatient[2]),
    )
    for k, ds in enumerate(slices):
        measured = ds.pixel_array.T * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        np.testing.assert_array_equal(scan.array[0, ..., k], measured)
        place = (scan.affine @ [0, 0, k, 1])[:3] * [-1, -1, 1]
        np.testing.assert_allclose(place, ds.ImagePositionPatient, atol=1e-4)


@pytest.mark.skipif(not SERIES.is_dir(), reason="this wheel of pydicom ships no folders")
def test_the_other_objects_that_pydicom_ships() -> None:
    for pattern, said in OTHERS.items():
        files = list(PYDICOM.glob(pattern))
        assert len(files) > 5
        for file in files:
            found = ": ".join(outcome(file, planes=True))
            assert re.match(said, found), (file.name, found)
