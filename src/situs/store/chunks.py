"""Voxels on disk: blosc2 arrays whose crops are read without reading the rest.

Beside each lies a table of checksums, one a chunk. A chunk is held against its own when a process
reads it for the first time: a bit that a disk or a copy changed is told, not trained on.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import numpy.typing as npt

from situs.errors import StoreError
from situs.files import sha256, write_file
from situs.store.crc import crc32
from situs.store.crop import widen
from situs.store.paths import sums_file
from situs.store.preprocessing import Compression

_CHUNKS: dict[Compression, tuple[int, int, int]] = {
    "lz4": (64, 64, 64),
    "zstd": (64, 64, 64),
    "none": (32, 256, 256),  # long rows and few pieces are copied fast
}
"""Most voxels along each axis of what is found at a time; of a compressed chunk, a crop can skip
blocks of half of that."""

_CODECS: dict[Compression, dict[str, Any]] = {
    "lz4": {"codec": blosc2.Codec.LZ4HC, "clevel": 9, "filters": [blosc2.Filter.SHUFFLE]},
    "zstd": {"codec": blosc2.Codec.ZSTD, "clevel": 5, "filters": [blosc2.Filter.SHUFFLE]},
    "none": {"clevel": 0, "filters": [blosc2.Filter.NOFILTER]},
}
_CHUNK_HEADER = 32  # bytes before a chunk's content
_FLAGS, _PLAIN = 2, 2  # the header's byte of flags, and the one that says: not compressed
Box = tuple[slice, ...]

_HEADER_LENGTH = slice(11, 15)  # of a blosc2 frame, big endian
_ROW = np.dtype([("bytes", "<u4"), ("crc32", "<u4")])
_ALL_VOXELS = blosc2.SpecialValue.NOT_SPECIAL

# Which pieces of which file were found whole, by this process or the one it was forked from.
_WHOLE: dict[tuple[str, str], npt.NDArray[np.bool_]] = {}


def write_array(
    path: Path, array: npt.NDArray[np.floating[Any]], compression: Compression = "lz4"
) -> tuple[int, str, str]:
    """Compress ``(C, X, Y, Z)`` and write it at once, with its checksums beside it.

    Returns:
        Size in bytes and SHA-256 of the file, and SHA-256 of the table of checksums.
    """
    # A file holds whole chunks and blocks: equal parts of an axis leave little beyond its end.
    sizes = zip(array.shape[1:], _CHUNKS[compression], strict=True)
    chunks = (1, *(_part(n, most) for n, most in sizes))
    blocks = (1, *(-(-n // 2) if n > 32 else n for n in chunks[1:]))
    packed = blosc2.asarray(
        np.ascontiguousarray(array),
        chunks=chunks,
        blocks=chunks if compression == "none" else blocks,  # so that voxels lie in C order
        cparams={**_CODECS[compression], "nthreads": 1},
    )
    frame: bytes = packed.to_cframe()
    table = _checksums(frame, packed.schunk)
    write_file(path, frame)
    write_file(sums_file(path), table)
    return len(frame), sha256(frame), sha256(table)


def _part(voxels: int, most: int) -> int:
    """Length of the parts that an axis is divided into."""
    return -(-voxels // -(-voxels // most))


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
        self._chunk, self._dtype = self._voxels.chunks, self._voxels.dtype
        self._grid = [-(-n // c) for n, c in zip(self.shape, self._chunk, strict=True)]
        self._steps = [math.prod(self._grid[axis + 1 :]) for axis in range(len(self._grid))]
        self._by_chunk = pieces == math.prod(self._grid) + 2
        self._plain_bytes = _CHUNK_HEADER + math.prod(self._chunk) * self._dtype.itemsize
        # Where voxels of a chunk are in C order, it may lie there as it is. Mapped for this process
        # alone, since torch takes no array that may only be read.
        plain = self._by_chunk and self._chunk == self._voxels.blocks
        self._mapped = np.asarray(np.memmap(file, np.uint8, "c")) if plain else None

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
        self._ready(box)
        voxels: npt.NDArray[Any] = self._voxels[box]
        return voxels

    def copy_to(self, box: tuple[slice, ...], into: npt.NDArray[np.float32]) -> None:
        """Copy the voxels of a box, a slice along each axis; those not compressed as they lie."""
        self._ready(box)
        if self._mapped is None:
            widen(self._voxels[box], into)
            return
        for piece, own, inside, there in self._touched(box):
            chunk = self._plain(piece)
            widen(self._voxels[own] if chunk is None else chunk[inside], into[there])

    def _plain(self, piece: int) -> npt.NDArray[Any] | None:
        """A chunk as it lies in the file; None where it is compressed, or of one value."""
        start, end = self._span(piece)
        if end - start != self._plain_bytes:
            return None
        assert self._mapped is not None
        if not self._mapped[start + _FLAGS] & _PLAIN:
            return None
        return np.ndarray(self._chunk, self._dtype, self._mapped, start + _CHUNK_HEADER)

    def _ready(self, box: tuple[slice, ...]) -> None:
        """Check what a box reads, where nobody has yet."""
        self._check_size()  # a mapped file that has become shorter ends the process
        if self._by_chunk and not self._whole.all():
            self._check(piece for piece, *_ in self._touched(box))

    def _touched(self, box: tuple[slice, ...]) -> Iterator[tuple[int, Box, Box, Box]]:
        """The pieces that a box reads, in C order, and what it has of each.

        Yields:
            The piece's number; the place of what the box has of it in the array, in the chunk, and
            in the box.
        """
        axes = []
        for part, n, size, step in zip(box, self.shape, self._chunk, self._steps, strict=True):
            low, high, _ = part.indices(n)
            axis = []
            for number in range(low // size, -(-high // size)):
                first = number * size
                a, b = max(low, first), min(high, first + size)
                places = slice(a, b), slice(a - first, b - first), slice(a - low, b - low)
                axis.append((number * step, *places))
            axes.append(axis)
        for parts in itertools.product(*axes):
            numbers, own, inside, there = zip(*parts, strict=True)
            yield 1 + sum(numbers), own, inside, there

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
