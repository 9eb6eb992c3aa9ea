"""Which format a file is in, from its name and its first bytes."""

from __future__ import annotations

import stat
from pathlib import Path

from situs.scans.refusals import refuse

_SUFFIXES = {
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".hdr": "nifti",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "mha",
    ".mhd": "mha",
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".ima": "dicom",
}


def format_of(path: Path) -> str:
    """``"nifti"``, ``"nrrd"``, ``"mha"`` or ``"dicom"``, from the name and the first bytes.

    Raises:
        ScanRefused: ``missing-file``, ``empty-file`` or ``not-an-image``.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        raise refuse("missing-file", path) from None
    if stat.S_ISDIR(mode):
        return "dicom"
    if not stat.S_ISREG(mode):
        raise refuse("not-an-image", path, "this is no regular file")
    if path.stat().st_size == 0:
        raise refuse("empty-file", path)
    known = format_by_name(path)
    if known is not None:
        return known
    if starts_as_dicom(path):
        return "dicom"
    raise refuse("not-an-image", path)


def format_by_name(path: Path) -> str | None:
    """The format that a file's name promises, None where it promises none."""
    name = path.name.lower()
    return next((fmt for suffix, fmt in _SUFFIXES.items() if name.endswith(suffix)), None)


def starts_as_dicom(path: Path) -> bool:
    """Whether the file has DICOM's preamble."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def stem(path: Path) -> str:
    """A file's name without the suffix of its format; a folder's name as it is."""
    return path.name if path.is_dir() else without_suffix(path.name)


def without_suffix(name: str) -> str:
    """A file's name without the suffix of its format."""
    suffix = next((s for s in (*_SUFFIXES, ".img") if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]
