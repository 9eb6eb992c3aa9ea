"""Compressed bytes read as a file, each stream up to its checksum and no further."""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

try:  # twice as fast as zlib, and without it nothing but time is lost
    from isal import isal_zlib

    _inflater: Any = isal_zlib
except ImportError:  # a machine for which there is no wheel
    _inflater = zlib

_PIECE = 2**17  # what is not consumed is copied at every step, so larger ones are slower
MOST_BEHIND = 2**24
"""Bytes that may follow the voxels in a stream before it is taken for a bomb."""
HOLDS_MORE = "the file holds far more than its header says"
_GZIP = b"\x1f\x8b"
BROKEN = (EOFError, zlib.error, _inflater.error)
"""What reading a compressed stream that is damaged or truncated raises."""
DAMAGE = (*BROKEN, gzip.BadGzipFile, OSError, ValueError)
"""What reading a damaged or shortened file raises."""


class GoesOnError(Exception):
    """A stream holds far more than the header beside it says."""


class Inflated(io.RawIOBase):
    """The contents of a gzip or zlib stream, read forwards.

    The checksum at the end of a stream is compared where the end is reached. Several gzip members
    one after another are one stream, as gzip itself takes them; zeros behind them are padding.
    What else follows is not read, and :attr:`trailing` tells that it is there.

    Attributes:
        trailing: Whether bytes that belong to no stream follow; known once the end is reached.
    """

    def __init__(self, file: BinaryIO, *, zlib_header: bool = False) -> None:
        self._file = file
        # zlib's own numbers: 31 for gzip, 47 for whichever of zlib and gzip it is.
        self._window = 47 if zlib_header else 31
        self._stream = _inflater.decompressobj(self._window)
        self._waiting = b""
        self._place = 0
        self.trailing = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True: forwards only."""
        return True

    def tell(self) -> int:
        """Return the number of bytes given out."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go forwards to ``offset`` from the start.

        Raises:
            io.UnsupportedOperation: For any other move.
        """
        if whence != io.SEEK_SET or offset < self._place:
            raise io.UnsupportedOperation("a compressed stream is read forwards")
        while self._place < offset and self.read(min(_PIECE, offset - self._place)):
            pass
        return self._place

    def readinto(self, buffer: object) -> int:
        """Fill ``buffer`` as far as the stream reaches.

        Raises:
            EOFError: Where the file ends before its stream does.
            zlib.error, isal_zlib.error: Where the stream is damaged.
        """
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        done = 0
        while done < len(view) and not self._ended():
            piece = self._waiting or self._file.read(_PIECE)
            data = self._stream.decompress(piece, min(4 * _PIECE, len(view) - done))
            if not piece and not data and not self._stream.eof:
                # Without more bytes there may be more values still, in the inflater's own window.
                raise EOFError("the compressed stream ends too early")
            self._waiting = self._stream.unconsumed_tail
            view[done : done + len(data)] = data
            done += len(data)
        self._place += done
        return done

    def finish(self) -> int:
        """Read to the end of the stream, and so compare its checksum.

        Returns:
            How many bytes were left.

        Raises:
            GoesOnError: Where they do not seem to end: a few megabytes hold gigabytes of zeros.
        """
        left = 0
        while data := self.read(_PIECE):
            left += len(data)
            if left > MOST_BEHIND:
                raise GoesOnError
        return left

    def close(self) -> None:
        """Close the file below as well."""
        self._file.close()
        super().close()

    def _ended(self) -> bool:
        """Whether the stream is at its end; begins the next gzip member where there is one."""
        if not self._stream.eof:
            return False
        rest = self._stream.unused_data
        while not (rest := rest.lstrip(b"\0")) and not self.trailing:
            rest = self._file.read(_PIECE)
            if not rest:
                return True
        if self._window == 31 and len(rest) < 2:
            rest += self._file.read(_PIECE)
        if self._window == 31 and rest.startswith(_GZIP):
            self._stream = _inflater.decompressobj(self._window)
            self._waiting = rest
            return False
        self.trailing = True
        return True


def open_plain_or_gzip(path: Path) -> BinaryIO:
    """Open a file for reading, through gzip where it begins as gzip does."""
    file = path.open("rb")
    zipped = file.read(2) == _GZIP
    file.seek(0)
    return cast(BinaryIO, Inflated(file)) if zipped else file


def open_compressed(file: BinaryIO, encoding: str) -> BinaryIO:
    """What ``file`` holds from its present place on.

    Args:
        file: At the first byte of the stream.
        encoding: ``"raw"``, ``"gzip"``, ``"zlib"`` or ``"bzip2"``.
    """
    if encoding == "raw":
        return file
    if encoding == "bzip2":
        return cast(BinaryIO, bz2.BZ2File(file))
    return cast(BinaryIO, Inflated(file, zlib_header=encoding == "zlib"))


def fill(stream: BinaryIO, buffer: memoryview) -> int:
    """Read until ``buffer`` is full or the stream ends; how many bytes there were."""
    done = 0
    while done < len(buffer):
        count = stream.readinto(buffer[done:])  # type: ignore[attr-defined]
        if not count:
            break
        done += count
    return done
