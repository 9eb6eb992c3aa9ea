"""Arrays in ``.npz`` archives, read without ever unpickling."""

from __future__ import annotations

import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from situs.scans.quality import MAX_BYTES
from situs.scans.refusals import refuse


def shapes(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of every array in the archive, from the headers alone.

    Raises:
        ScanRefused: ``unreadable-file`` or ``unsupported-dtype`` (Python objects).
    """
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    version = np.lib.format.read_magic(file)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(file)
                if dtype.hasobject:
                    raise refuse("unsupported-dtype", path, "holds Python objects")
                found[name.removesuffix(".npy")] = (tuple(shape), dtype)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, zlib.error):
        raise refuse("unreadable-file", path, "this is no archive of arrays") from None
    return found


@lru_cache(maxsize=8)
def read_array(path: Path, name: str) -> npt.NDArray[Any]:
    """One array of the archive, kept for the next call; do not write into it.

    Raises:
        ScanRefused: ``absurd-header``, ``too-large`` or ``unreadable-file``.
    """
    shape, dtype = shapes(path)[name]
    if int(np.prod(shape, dtype=object)) * dtype.itemsize > MAX_BYTES:
        raise refuse("too-large", path, f"array {name} has shape {shape}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            array: npt.NDArray[Any] = archive[name]
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, zlib.error):
        raise refuse("unreadable-file", path, f"array {name} is damaged") from None
    return array


def read_member(path: Path, name: str, index: int) -> npt.NDArray[Any]:
    """One scan ``(X, Y, Z)`` out of a stack of them."""
    scan: npt.NDArray[Any] = read_array(path, name)[index]
    return scan.copy()
