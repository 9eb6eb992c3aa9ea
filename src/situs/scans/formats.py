"""Which format a file is in, from its name and its first bytes."""

from __future__ import annotations

import gzip
import re
import stat
import zlib
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from situs.made import is_archive
from situs.scans.refusals import refuse

_SUFFIXES = {
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".hdr": "nifti",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "mha",
    ".mhd": "mha",
    ".mgh": "mgh",
    ".mgz": "mgh",
    ".mgh.gz": "mgh",
    ".mnc": "minc",
    ".par": "parrec",
    ".head": "afni",
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".ima": "dicom",
    ".dcm.gz": "dicom",
    ".dicom.gz": "dicom",
    ".ima.gz": "dicom",
}

PREAMBLE_BYTES = 132
"""What stands before the first element of a DICOM file."""
GZIP_START = b"\x1f\x8b"
"""What a gzipped file begins with."""
# Without its preamble an object begins with an element of group 2 or 8: its tag, and a known VR
# (explicit) or a short length (implicit), as ACR-NEMA files and old exports do.
_BARE_DICOM = re.compile(
    rb"[\x02\x08]\x00[\x00-\x1f]\x00([A-Z]{2}|[\x00-\x80]\x00\x00\x00)"  # little endian
    rb"|\x00[\x02\x08]\x00[\x00-\x1f]([A-Z]{2}|\x00\x00\x00[\x00-\x80])"
)


# Voxels beside a header of the same name; whoever names them means both.
_HEADER_OF = {
    ".img": ".hdr",
    ".img.gz": ".hdr",
    ".rec": ".par",
    ".brik": ".head",
    ".brik.gz": ".head",
}


@cache
def _suffixes() -> dict[str, str]:
    """Suffix → format: situs's own, then those that other packages' readers are named by."""
    others = entry_points(group="situs.readers").names
    return _SUFFIXES | {f".{name}": name for name in sorted(others) if f".{name}" not in _SUFFIXES}


def format_of(path: Path) -> str:
    """``"nifti"``, ``"nrrd"``, ``"mha"``, ``"dicom"``, or the suffix of another package's reader.

    From the name and the first bytes.

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
    if is_archive(path):
        raise refuse("not-an-image", path, "this is an archive: unpack it, and give the folder")
    raise refuse("not-an-image", path)


def with_header(path: Path) -> Path:
    """The header of a pair of files where the other was named (``a.img``), else the path itself."""
    name = path.name.lower()
    suffix = next((s for s in sorted(_HEADER_OF, key=len)[::-1] if name.endswith(s)), None)
    if suffix is None or not path.is_file() or starts_as_dicom(path):
        return path
    wanted = name.removesuffix(suffix) + _HEADER_OF[suffix]
    return next((f for f in sorted(path.parent.iterdir()) if f.name.lower() == wanted), path)


def format_by_name(path: Path) -> str | None:
    """The format that a file's name promises, None where it promises none."""
    name = path.name.lower()
    return next((fmt for suffix, fmt in _suffixes().items() if name.endswith(suffix)), None)


def starts_as_dicom(path: Path) -> bool:
    """Whether the file has DICOM's preamble, or begins as an object without one; also gzipped."""
    try:
        with gzip.open(path) if is_gzip(path) else path.open("rb") as file:
            start = file.read(PREAMBLE_BYTES)
    except (EOFError, OSError, zlib.error):
        return False
    return start[128:] == b"DICM" or _BARE_DICOM.match(start) is not None


def is_gzip(path: Path) -> bool:
    """Whether the file begins as gzip does."""
    with path.open("rb") as file:
        return file.read(2) == GZIP_START


def stem(path: Path) -> str:
    """A file's name without the suffix of its format; a folder's name as it is."""
    return path.name if path.is_dir() else without_suffix(path.name)


def without_suffix(name: str) -> str:
    """A file's name without the suffix of its format."""
    suffix = next((s for s in (*_suffixes(), ".img") if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]
