"""Voxels on disk: blosc2 arrays whose crops are read without reading the rest."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import numpy.typing as npt

from situs.errors import StoreError
from situs.files import sha256, write_file

CHUNK = 64
"""Voxels along each axis of what is found and decompressed at a time; a block, half of that,
is what a crop can skip inside it."""

_OPEN_FILES = 64


def write_array(path: Path, array: npt.NDArray[np.floating[Any]]) -> tuple[int, str]:
    """Compress ``(C, X, Y, Z)`` and write it at once.

    Returns:
        Size in bytes and SHA-256 of the file.
    """
    chunks = (1, *(min(CHUNK, n) for n in array.shape[1:]))
    blocks = (1, *(min(CHUNK // 2, n) for n in array.shape[1:]))
    compression = {
        "codec": blosc2.Codec.ZSTD,
        "clevel": 5,
        "filters": [blosc2.Filter.SHUFFLE],
        "nthreads": 1,
    }
    packed = blosc2.asarray(
        np.ascontiguousarray(array), chunks=chunks, blocks=blocks, cparams=compression
    )
    frame: bytes = packed.to_cframe()
    write_file(path, frame)
    return len(frame), sha256(frame)


def open_array(path: Path, size: int, checksum: str) -> Any:
    """The array behind ``path``; it and some recent ones stay open in this process.

    Args:
        path: File that :func:`write_array` wrote.
        size: Its size in bytes.
        checksum: What :func:`write_array` returned; tells a file written anew from the old one.

    Raises:
        StoreError: If the file is absent or of another size.
    """
    return _opened(str(path), size, checksum)


@lru_cache(maxsize=_OPEN_FILES)
def _opened(path: str, size: int, _checksum: str) -> Any:
    file = Path(path)
    found = file.stat().st_size if file.is_file() else None
    if found != size:
        state = "missing" if found is None else f"{found} bytes long instead of {size}"
        raise damaged(file, state)
    try:
        # One thread: parallelism comes from the loader's workers.
        return blosc2.open(path, mode="r", mmap_mode="r", dparams={"nthreads": 1})
    except (RuntimeError, ValueError) as error:
        raise damaged(file, str(error)) from None


def damaged(file: Path, state: str) -> StoreError:
    """The error for a file that is not as it was written."""
    return StoreError(
        f"{file.name} in the store {file.parents[2]} is damaged ({state}); "
        "'situs prepare' with the same catalog and settings writes it again"
    )
