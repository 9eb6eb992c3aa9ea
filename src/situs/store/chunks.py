"""Voxels on disk: blosc2 arrays whose crops are read without reading the rest.

Beside each lies a table of checksums, one a chunk. A chunk is held against its own when a process
reads it for the first time: a bit that a disk or a copy changed is told, not trained on.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import numpy.typing as npt

from situs.errors import StoreError
from situs.files import sha256, write_file
from situs.store.crc import crc32
from situs.store.paths import sums_file

CHUNK = 64
"""Voxels along each axis of what is found and decompressed at a time; a block, half of that,
is what a crop can skip inside it."""

_HEADER_LENGTH = slice(11, 15)  # of a blosc2 frame, big endian
_ROW = np.dtype([("bytes", "<u4"), ("crc32", "<u4")])
_ALL_VOXELS = blosc2.SpecialValue.NOT_SPECIAL

# Which pieces of which file were found whole, by this process or the one it was forked from.
_WHOLE: dict[tuple[str, str], npt.NDArray[np.bool_]] = {}


def write_array(path: Path, array: npt.NDArray[np.floating[Any]]) -> tuple[int, str, str]:
    """Compress ``(C, X, Y, Z)`` and write it at once, with its checksums beside it.

    Returns:
        Size in bytes and SHA-256 of the file, and SHA-256 of the table of checksums.
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
    table = _checksums(frame, packed.schunk)
    write_file(path, frame)
    write_file(sums_file(path), table)
    return len(frame), sha256(frame), sha256(table)


def _checksums(frame: bytes, stored: Any) -> bytes:
    """Length and CRC-32 of the frame's pieces: header, each chunk, what follows the chunks.

    Chunks of one value take no place. Where chunks lie otherwise than one after another, the
    frame is one piece.
    """
    ends = [int.from_bytes(frame[_HEADER_LENGTH], "big")]
    for chunk in stored.iterchunks_info():
        content = stored.get_chunk(chunk.nchunk) if chunk.special == _ALL_VOXELS else b""
        if not frame.startswith(content, ends[-1]):
            ends = []
            break
        ends.append(ends[-1] + len(content))
    pieces = [frame[a:b] for a, b in itertools.pairwise([0, *ends, len(frame)])]
    return np.array([(len(piece), crc32(piece)) for piece in pieces], _ROW).tobytes()


class StoredArray:
    """The voxels ``(C, X, Y, Z)`` behind a file; what is read is checked once in each process.

    Args:
        file: That :func:`write_array` wrote.
        size: Its size in bytes.
        checksum: Its SHA-256; tells a file written anew from the old one.
        sums: SHA-256 of its table of checksums; empty in stores made before there were any, which
            are read as they are.

    Raises:
        StoreError: If the file is absent, of another size, or not as it was written.
    """

    def __init__(self, file: Path, size: int, checksum: str, sums: str) -> None:
        self.file, self.size, self._checksum, self._sums = file, size, checksum, sums
        self._open()

    def _open(self) -> None:
        file = self.file
        self._check_size()
        rows = np.frombuffer(self._table() if self._sums else b"", _ROW)
        self._ends, self._crc32 = np.cumsum(rows["bytes"], dtype=np.int64), rows["crc32"]
        pieces = len(self._crc32)
        self._whole = self._known_whole(pieces)
        if pieces:
            self._check(self._opened_with(pieces))
        try:
            # One thread: parallelism comes from the loader's workers.
            self._voxels = blosc2.open(str(file), mode="r", mmap_mode="r", dparams={"nthreads": 1})
        except (RuntimeError, ValueError) as error:
            raise damaged(file, str(error)) from None
        self.shape: tuple[int, ...] = self._voxels.shape
        self._grid = [-(-n // c) for n, c in zip(self.shape, self._voxels.chunks, strict=True)]

    def _opened_with(self, pieces: int) -> set[int]:
        """Pieces to check before anything relies on what the header says."""
        return {0, pieces - 1}

    def _table(self) -> bytes:
        """How long each piece of the file is, and its CRC-32."""
        file = sums_file(self.file)
        table = file.read_bytes() if file.is_file() else b""
        if sha256(table) != self._sums:
            raise damaged(file, "its checksum does not fit" if table else "missing")
        return table

    def _known_whole(self, pieces: int) -> npt.NDArray[np.bool_]:
        """Which pieces were found whole before, in an array that goes on saying so."""
        return _WHOLE.setdefault((str(self.file), self._checksum), np.zeros(pieces, dtype=bool))

    def __getitem__(self, box: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Voxels of a box, a slice along each axis."""
        self._check_size()  # a mapped file that has become shorter ends the process
        if len(self._whole) == math.prod(self._grid) + 2 and not self._whole.all():
            self._check(self._touched(box))
        voxels: npt.NDArray[Any] = self._voxels[box]
        return voxels

    def _touched(self, box: tuple[slice, ...]) -> Iterable[int]:
        """The pieces that a box reads; chunks are in C order."""
        axes = [
            range(low // chunk, -(-high // chunk))
            for (low, high, _), chunk in zip(
                (part.indices(n) for part, n in zip(box, self.shape, strict=True)),
                self._voxels.chunks,
                strict=True,
            )
        ]
        steps = [math.prod(self._grid[axis + 1 :]) for axis in range(len(self._grid))]
        for index in itertools.product(*axes):
            yield 1 + sum(i * step for i, step in zip(index, steps, strict=True))

    def _check(self, pieces: Iterable[int]) -> None:
        unread = [piece for piece in pieces if not self._whole[piece]]
        if not unread:
            return
        try:
            # Not through the mapping: what a disk cannot read would end the process there.
            with self.file.open("rb") as content:
                for piece in unread:
                    start, end = self._span(piece)
                    content.seek(start)
                    found = content.read(end - start)
                    if not self._fits(piece, found):
                        raise damaged(self.file, "its checksum does not fit")
                    self._whole[piece] = True
        except OSError as error:
            raise damaged(self.file, error.strerror or "cannot be read") from None

    def _fits(self, piece: int, content: bytes) -> bool:
        """Whether a piece is as it was written."""
        return bool(crc32(content) == self._crc32[piece])

    def _span(self, piece: int) -> tuple[int, int]:
        """Where a piece begins in the file, and where it has ended."""
        return int(self._ends[piece - 1]) if piece else 0, int(self._ends[piece])

    def _check_size(self) -> None:
        try:
            found = os.stat(self.file).st_size
        except OSError:
            raise damaged(self.file, "missing") from None
        if found != self.size:
            raise damaged(self.file, f"{found} bytes long instead of {self.size}")


def damaged(file: Path, state: str) -> StoreError:
    """The error for a file that is not as it was written."""
    return StoreError(
        f"{file.name} in the store {file.parents[2]} is damaged ({state}); "
        "'situs prepare --verify' with the same catalog and settings writes it again"
    )
