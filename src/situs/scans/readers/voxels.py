"""Decode the voxels of NRRD and MetaImage once: what was checked is what is used.

ITK's readers of these formats believe declared lengths, and hand over memory that they never
wrote where a stream ends early. So ITK is asked for geometry, and the bytes are decoded here.
"""

from __future__ import annotations

import binascii
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from situs.scans.readers.streams import (
    DAMAGE,
    HOLDS_MORE,
    MOST_BEHIND,
    GoesOnError,
    Inflated,
    fill,
    open_compressed,
)
from situs.scans.readers.text_headers import Voxels
from situs.scans.refusals import refuse

_PIECE = 2**20


def decode(voxels: Voxels, path: Path) -> tuple[npt.NDArray[Any], list[str]]:
    """The stored values, ``voxels.shape`` with the fastest axis first, and what there is to note.

    Args:
        voxels: From :func:`situs.scans.readers.text_headers.voxels_of`.
        path: For errors.

    Raises:
        ScanRefused: ``truncated-file`` where values are missing or a checksum is wrong;
            ``absurd-header`` where the file holds far more.
    """
    try:
        with voxels.file.open("rb") as file:
            file.seek(voxels.start)
            for _ in range(voxels.skip_lines):
                if not file.readline(_PIECE).endswith(b"\n"):
                    raise EOFError
            if voxels.encoding in ("text", "hex"):
                values, more = _from_text(voxels, file), False
            else:
                values, more = _from_bytes(voxels, file)
    except GoesOnError:
        raise refuse("absurd-header", path, HOLDS_MORE) from None
    except DAMAGE:
        raise refuse("truncated-file", path, "the voxels end too early or are damaged") from None
    notes = ["bytes behind the voxels were left out"] if more else []
    return values.reshape(voxels.shape, order="F"), notes


def _from_bytes(voxels: Voxels, file: BinaryIO) -> tuple[npt.NDArray[Any], bool]:
    if voxels.skip_bytes == -1:
        file.seek(-voxels.nbytes, 2)
    elif voxels.encoding == "zlib":
        file.seek(voxels.skip_bytes, 1)
    stream = open_compressed(file, voxels.encoding)
    if voxels.skip_bytes > 0 and voxels.encoding != "zlib":
        _skip(stream, voxels.skip_bytes)
    values = np.empty(voxels.count, voxels.dtype)
    if fill(stream, values.view(np.uint8).data) < voxels.nbytes:
        raise EOFError
    if voxels.encoding == "raw":
        return values, bool(stream.read(1))
    left = stream.finish() if isinstance(stream, Inflated) else _drained(stream)
    if left >= voxels.nbytes:
        raise GoesOnError
    return values, left > 0 or getattr(stream, "trailing", False)


def _drained(stream: BinaryIO) -> int:
    """Read bzip2 to its end, where its checksum is compared; how many bytes were left."""
    left = 0
    while data := stream.read(_PIECE):
        left += len(data)
        if left > MOST_BEHIND:
            raise GoesOnError
    return left


def _skip(stream: BinaryIO, count: int) -> None:
    while count:
        piece = stream.read(min(count, _PIECE))
        if not piece:
            raise EOFError
        count -= len(piece)


def _from_text(voxels: Voxels, file: BinaryIO) -> npt.NDArray[Any]:
    """Values written out, or bytes in hexadecimal digits."""
    _skip(file, voxels.skip_bytes)
    text = file.read()
    if voxels.encoding == "hex":
        raw = binascii.unhexlify(b"".join(text.split()))
        return np.frombuffer(raw, voxels.dtype, voxels.count).copy()
    whole = voxels.dtype.kind in "iu"
    wide = np.dtype(np.float64 if not whole else np.uint64 if voxels.dtype == "u8" else np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # text that is no number
        try:
            values = np.fromstring(text.decode("ascii").replace(",", " "), wide, sep=" ")
        except DeprecationWarning:
            raise ValueError from None
    values = values[: voxels.count]
    if len(values) < voxels.count:
        raise EOFError
    if whole and wide != voxels.dtype:
        limits = np.iinfo(voxels.dtype.str)
        if values.min() < limits.min or values.max() > limits.max:
            raise ValueError
    return values.astype(voxels.dtype.newbyteorder("="))


def held_bytes(voxels: Voxels) -> int:
    """Bytes of the file that can hold voxels."""
    return max(0, voxels.file.stat().st_size - voxels.start - max(0, voxels.skip_bytes))


def in_volumes(values: npt.NDArray[Any], voxels: Voxels, chosen: list[int]) -> npt.NDArray[Any]:
    """Stored values as ``(C, X, Y, Z)``, native byte order, of the volumes that are wanted.

    Args:
        values: From :func:`decode`.
        voxels: How they are stored.
        chosen: Indices of components, or along a fourth axis of space.
    """
    if voxels.channels is not None:
        values = np.moveaxis(values, voxels.channels, 0)
    elif values.ndim == 4:
        values = np.moveaxis(values, -1, 0)
    else:
        values = values[None]
    values = values.reshape(values.shape + (1,) * (4 - values.ndim))
    if chosen != list(range(len(values))):
        values = values[chosen]
    slope, offset = voxels.scale
    if (slope, offset) != (1.0, 0.0):
        values = values * np.float32(slope) + np.float32(offset)
    if values.dtype.kind == "f" and values.dtype.itemsize != 4:
        with np.errstate(over="ignore"):  # infinity is found later, and refused
            return values.astype(np.float32)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def spatial_shape(voxels: Voxels) -> tuple[int, ...]:
    """Sizes of the axes that are not components."""
    return tuple(n for axis, n in enumerate(voxels.shape) if axis != voxels.channels)


def components(voxels: Voxels) -> int:
    """Values that each voxel has."""
    return 1 if voxels.channels is None else voxels.shape[voxels.channels]
