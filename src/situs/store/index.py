"""Where each line of a store's list of records begins, so that one is read without the others.

The file ``records.index`` is made of the list and is made anew where it is absent, damaged, or of
another list. Every part of it has a checksum of its own: none has to be read whole.
"""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from situs.files import sha256
from situs.store.crc import crc32

_MAGIC = b"situs records 1\n"
_HEAD = struct.Struct("<16s64sQQ")  # magic, SHA-256 and bytes of the list, records
_LINE = struct.Struct("<QII64s")  # where it begins, bytes, CRC-32, the record's key
_SUM = struct.Struct("<I")  # CRC-32 of what stands before it
_ROWS = _HEAD.size + _SUM.size

ReadPart = Callable[[int, int], bytes]
"""Bytes of a file, from where on and how many; fewer where it ends."""


class Line(NamedTuple):
    """Where a record stands in the list.

    Attributes:
        start: First byte.
        bytes: Its length.
        crc32: Of its text.
        key: The record's.
    """

    start: int
    bytes: int
    crc32: int
    key: str


class RecordIndex:
    """Lines of a list of records; holds none of them in memory where it lies in a file.

    Args:
        part: Reads its content.

    Raises:
        ValueError: If its beginning is not as it was written.
    """

    def __init__(self, part: ReadPart) -> None:
        self._part = part
        magic, checksum, self.list_bytes, self.count = _HEAD.unpack(self._checked(0, _HEAD, 0))
        if magic != _MAGIC:
            raise ValueError("of another version")
        self.checksum: str = checksum.decode()
        self._salt = crc32(checksum)

    def line(self, number: int) -> Line:
        """Where record ``number`` stands.

        Raises:
            ValueError: If what the index says of it is not as it was written.
        """
        at = _ROWS + number * (_LINE.size + _SUM.size)
        start, length, checksum, key = _LINE.unpack(self._checked(at, _LINE, self._salt))
        return Line(start, length, checksum, key.rstrip(b"\0").decode())

    def _checked(self, start: int, of: struct.Struct, salt: int) -> bytes:
        found = self._part(start, of.size + _SUM.size)
        content = found[: of.size]
        if found[of.size :] != _SUM.pack(crc32(content, salt)):
            raise ValueError("the checksum does not fit")
        return content


def index_bytes(text: bytes, keys: Sequence[str]) -> bytes:
    """The index of a list of records.

    Args:
        text: The list, one record a line.
        keys: Of the records, in that order.
    """
    checksum = sha256(text).encode()
    salt, start = crc32(checksum), 0
    parts = [_sealed(_HEAD.pack(_MAGIC, checksum, len(text), len(keys)), 0)]
    for line, key in zip(text.splitlines(keepends=True), keys, strict=True):
        parts.append(_sealed(_LINE.pack(start, len(line), crc32(line), key.encode()), salt))
        start += len(line)
    return b"".join(parts)


def open_index(file: Path, records: Path, count: int, checksum: str) -> RecordIndex | None:
    """The index in a file; None where it is absent, damaged, or of another list.

    Args:
        file: Of the index.
        records: The list.
        count: Records that the list must have.
        checksum: SHA-256 that the list was written with; empty where nobody knows.
    """
    try:
        index = RecordIndex(part_reader(file))
        size = records.stat().st_size
    except (OSError, ValueError):
        return None
    same = checksum in ("", index.checksum) and (index.list_bytes, index.count) == (size, count)
    return index if same else None


def part_reader(file: Path) -> ReadPart:
    """Reads parts of a file that stays open: other threads and forked processes may read as well.

    Goes on reading the file that it opened where another gets its name.

    Raises:
        OSError: If there is none.
    """
    if not hasattr(os, "pread"):  # Windows, where an open file could not be written anew either
        return lambda start, count: _read_part(file, start, count)
    handle = os.open(file, os.O_RDONLY)

    def read(start: int, count: int) -> bytes:
        return os.pread(handle, count, start)

    weakref.finalize(read, os.close, handle)
    return read


def _read_part(file: Path, start: int, count: int) -> bytes:
    with file.open("rb") as content:
        content.seek(start)
        return content.read(count)


def _sealed(content: bytes, salt: int) -> bytes:
    return content + _SUM.pack(crc32(content, salt))
