"""A store's records, each read from the list when it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, overload

from pydantic import ValidationError

from situs.errors import StoreError
from situs.files import sha256, write_file
from situs.store.cache import origin, stored_bytes
from situs.store.crc import crc32
from situs.store.index import ReadPart, RecordIndex, index_bytes, open_index, part_reader
from situs.store.paths import HEAD, INDEX, RECORDS
from situs.store.record import Record, read_head

_KEPT = 1024  # records at most that a process keeps: more than a loader looks at in one sample


class Listing(Sequence[Record]):
    """The records of a store, of any number: opening it reads none, and none stays for long.

    A record is held against its checksum when it is read. Where an index says something else than
    the list, the whole list is held against its own checksum, and the index is made anew.
    Pickles as its path.

    Args:
        store: The store's folder.
        count: Records that there must be.
        checksum: SHA-256 of the list; empty in stores made before it was kept.

    Raises:
        StoreError: If the list is damaged, as far as the index tells.
    """

    def __init__(self, store: Path, count: int, checksum: str) -> None:
        self.store, self._count, self._checksum = store, count, checksum
        self._kept: dict[int, Record] = {}
        self._file = store / RECORDS
        index = open_index(store / INDEX, self._file, count, checksum)
        self._index = index or self._made()
        self._part = self._opened()

    def __reduce__(self) -> tuple[Any, ...]:
        return (Listing, (self.store, self._count, self._checksum))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Listing) and self.__reduce__() == other.__reduce__()

    def __hash__(self) -> int:
        return hash((self.store, self._count, self._checksum))

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """The record at ``index``, or those of a slice.

        Raises:
            StoreError: If what is asked for is damaged.
        """
        if isinstance(index, slice):
            return [self[number] for number in range(self._count)[index]]
        number = range(self._count)[index]
        found = self._kept.get(number)
        if found is None:
            found = self._read(number) or self._mended(number)
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[number] = found
        return found

    def key(self, number: int) -> str:
        """Name in the store of scan ``number``, for which its record need not be read.

        Raises:
            StoreError: If what is asked for is damaged.
        """
        with suppress(OSError, ValueError):
            return self._index.line(number).key
        return self._mended(number).key

    def _read(self, number: int) -> Record | None:
        """A record, where index and list agree on it."""
        with suppress(OSError, ValueError):  # among them pydantic's
            line = self._index.line(number)
            text = self._part(line.start, line.bytes)
            if crc32(text) == line.crc32:
                record = Record.model_validate_json(text)
                return record if record.key == line.key else None
        return None

    def _mended(self, number: int) -> Record:
        """A record with an index that was made anew."""
        self._index, self._part = self._made(), self._opened()
        record = self._read(number)
        if record is None:
            raise self._damaged()
        return record

    def _made(self) -> RecordIndex:
        """The index, made of the whole list, and kept beside it where that can be."""
        text, keys = self._whole()
        content = index_bytes(text, keys)
        with suppress(OSError):  # a store that may only be read
            write_file(self.store / INDEX, content)
            return RecordIndex(part_reader(self.store / INDEX))
        return RecordIndex(lambda start, count: content[start : start + count])

    def _whole(self) -> tuple[bytes, list[str]]:
        """The list and the keys in it, all of it checked; fetched again where it is a copy."""
        with suppress(OSError, ValidationError):
            text = self._file.read_bytes() if self._file.is_file() else b""
            if self._checksum and sha256(text) != self._checksum and origin(self.store) is not None:
                text = stored_bytes(self.store, self._file)
                write_file(self._file, text)
            if not self._checksum or sha256(text) == self._checksum:
                # One at a time: records of many scans together would take gigabytes.
                keys = [Record.model_validate_json(line).key for line in text.splitlines()]
                if len(keys) == self._count:
                    return text, keys
        raise self._damaged()

    def _opened(self) -> ReadPart:
        try:
            return part_reader(self._file)
        except OSError:
            raise self._damaged() from None

    def _damaged(self) -> StoreError:
        with suppress(OSError, StoreError):
            head = read_head((self.store / HEAD).read_bytes(), "", "")
            if head.records_checksum != self._checksum:
                return StoreError(
                    f"the store {self.store} was prepared anew while it was in use; start again"
                )
        return StoreError(
            f"{self._file} is damaged; 'situs prepare' with the same settings repairs it"
        )
