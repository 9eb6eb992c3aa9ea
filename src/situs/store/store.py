"""Read a store: its records, and crops of its scans."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from situs.config import Config
from situs.errors import StoreError
from situs.files import sha256
from situs.places import url_of
from situs.store import record
from situs.store.cache import exists, mirror, open_array, origin, stored_sha256
from situs.store.chunks import damaged
from situs.store.crop import Background, crop_padded, least
from situs.store.grid import GridChange
from situs.store.listing import Listing
from situs.store.paths import HEAD, REFUSED, array_file, sums_file
from situs.store.preprocessing import Preprocessing
from situs.store.record import Head, Record


class Refusal(Config):
    """A scan that is not in the store, and why."""

    source: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class StoredScan:
    """One prepared scan; a :class:`~situs.methods.base.Source`.

    Picklable and small: its record is read when something of it is asked for, the voxel file is
    opened where crops are read, at the first crop.

    Attributes:
        store: The store's folder.
        records: Of the store's scans.
        number: Of its record.
    """

    store: Path
    records: Sequence[Record] = field(repr=False, hash=False)
    number: int

    @property
    def record(self) -> Record:
        """What the store knows about it.

        Raises:
            StoreError: If the list of records is damaged.
        """
        return self.records[self.number]

    @property
    def key(self) -> str:
        """Name inside the store; a hash."""
        if isinstance(self.records, Listing):  # without reading the record
            return self.records.key(self.number)
        return self.record.key

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        return self.record.shape

    @property
    def channels(self) -> int:
        """Channels."""
        return self.record.channels

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxel centres along each axis."""
        return self.record.spacing

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """``(4, 4)``, voxel centres to RAS mm."""
        return np.array(self.record.affine).reshape(4, 4)

    @property
    def modality(self) -> str:
        """``"MR"``, ``"CT"``, … or ``"unknown"``."""
        return self.record.modality

    @property
    def study(self) -> str:
        """Scans with the same study share a frame of reference; empty where unknown."""
        return self.record.study

    @property
    def description(self) -> str:
        """Role words of the series."""
        return self.record.description

    @property
    def change(self) -> GridChange:
        """From the scan's own grid to this one; :func:`situs.store.restore` takes it."""
        return self.record.change

    @property
    def background(self) -> Background:
        """What lies outside the scan, one value a channel: its own air.

        Of a store made before that was recorded, the scan's least value; the first look reads
        the scan for it.

        Raises:
            StoreError: If the voxel file is missing or damaged.
        """
        return self.record.background or _least_of(self)

    def read(self, start: Sequence[int], size: Sequence[int]) -> npt.NDArray[np.float32]:
        """The crop ``(C, *size)`` that begins at voxel ``start``; :attr:`background` outside.

        Only the chunks that the crop touches are read.

        Raises:
            StoreError: If the voxel file is missing or damaged.
        """
        record = self.record
        ends = zip(start, size, record.shape, strict=True)
        inside = all(a >= 0 and a + k <= n for a, k, n in ends)
        return self._crop(record, start, size, (0.0,) if inside else self.background)

    def _crop(
        self, record: Record, start: Sequence[int], size: Sequence[int], outside: Background
    ) -> npt.NDArray[np.float32]:
        array = open_array(self.store, record.key, record.bytes, record.checksum, record.sums)
        if array.shape != (record.channels, *record.shape):
            raise damaged(array.file, f"its shape is {array.shape}")
        try:
            return crop_padded(array, start, size, outside)
        except (RuntimeError, ValueError) as error:
            raise damaged(array.file, str(error)) from None

    def array(self) -> npt.NDArray[np.float32]:
        """All voxels, ``(C, X, Y, Z)``."""
        return self.read((0, 0, 0), self.shape)


@lru_cache(maxsize=4096)
def _least_of(scan: StoredScan) -> Background:
    return least(scan.array())


class Store(Sequence[StoredScan]):
    """Prepared scans on disk; made by :func:`situs.store.prepare`.

    Opening one, and looking at one of its scans, takes as long with many scans as with few: a
    record is read when it is looked at. Pickles as its path.

    Args:
        path: The folder.
        head: Its description.
        records: Its scans.
    """

    def __init__(self, path: Path, head: Head, records: Sequence[Record]) -> None:
        self.path = path
        self._head = head
        self._records = records

    @staticmethod
    def is_store(path: str | Path) -> bool:
        """Whether a store was begun in this folder, or behind this URL.

        Raises:
            Unreachable: If the URL does not answer.
        """
        url = url_of(path)
        return (Path(path) / HEAD).is_file() if url is None else exists(url)

    @classmethod
    def open(cls, path: str | Path, preprocessing: Preprocessing | None = None) -> Store:
        """Open a store.

        Args:
            path: The folder, or a URL that fsspec reads: its voxels are fetched when they are
                looked at, see :mod:`situs.store.cache`.
            preprocessing: What it must have been made with, but for the compression; not checked
                where None.

        Raises:
            StoreError: If there is none, it is unfinished, of another version, damaged, or
                made with other preprocessing (which the error names).
            Unreachable: If the URL does not answer.
        """
        url = url_of(path)
        path = Path(os.path.abspath(path)) if url is None else mirror(url)
        head = read_head(path)
        if not head.complete:
            raise StoreError(
                f"the store {path} is unfinished; 'situs prepare' with the same catalog and "
                "settings goes on where it stopped"
            )
        if preprocessing is not None:  # however its voxels are compressed: they are the same
            own = {"compression": head.rules.compression}
            check_preprocessing(path, head, preprocessing.model_copy(update=own))
        return cls(path, head, Listing(path, head.scans, head.records_checksum))

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopened, (self.path, self.fingerprint))

    def __repr__(self) -> str:
        return f"Store({self.place}, {len(self)} scans, {self._head.refused} refused)"

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        """The scan at ``index``, or those of a slice."""
        found = range(len(self))[index]
        if isinstance(found, range):
            return [StoredScan(self.path, self._records, number) for number in found]
        return StoredScan(self.path, self._records, found)

    def __iter__(self) -> Iterator[StoredScan]:
        return (self[number] for number in range(len(self)))

    @property
    def remote(self) -> bool:
        """Whether it lies behind a URL, and what is read of it in the cache of this machine."""
        return origin(self.path) is not None

    @property
    def place(self) -> str:
        """Where it lies: its folder, or its URL."""
        source = origin(self.path)
        return str(self.path) if source is None else source.url

    @property
    def fingerprint(self) -> str:
        """Of data and settings: equal where a network would see the same scans."""
        return self._head.fingerprint

    @property
    def preprocessing(self) -> Preprocessing:
        """What was done to the scans, the median spacing in mm: fit for new scans too."""
        return self._head.rules.resolved(self._head.spacing_mm)

    @property
    def records(self) -> list[dict[str, Any]]:
        """One row a scan, JSON-able; made anew at every look."""
        return [record.model_dump(mode="json") for record in self._records]

    @cached_property
    def refused(self) -> list[dict[str, Any]]:
        """``source``, ``reason`` and ``detail`` of what is not in the store."""
        head = self._head
        rows = _refusals(self.path / REFUSED, head.refused, head.refused_checksum)
        return [row.model_dump(mode="json") for row in rows]

    def studies(self) -> list[list[StoredScan]]:
        """Scans by study, in the order of the records; one of unknown study stands alone."""
        groups: dict[str, list[StoredScan]] = {}
        for scan in self:
            groups.setdefault(scan.study or f"scan {scan.key}", []).append(scan)
        return list(groups.values())

    def damaged(self) -> list[str]:
        """Keys of scans whose voxels are not what was written; reads every file."""
        return [record.key for record in self._records if not is_whole(self.path, record)]


def is_whole(out: Path, record: Record) -> bool:
    """Whether a scan's voxels, and their checksums, are what was written; reads all of them."""
    file = array_file(out, record.key)
    sums = not record.sums or stored_sha256(out, sums_file(file)) == record.sums
    return sums and stored_sha256(out, file) == record.checksum


def read_head(path: Path) -> Head:
    """The description of the store in the folder ``path``.

    Raises:
        StoreError: If there is none that this version reads.
    """
    try:
        text = (path / HEAD).read_bytes()
    except FileNotFoundError:
        raise StoreError(f"no store at {path}; make one with 'situs prepare'") from None
    return record.read_head(
        text,
        str(path / HEAD),
        "copy the store again, or delete the folder and run 'situs prepare' again",
    )


def check_preprocessing(path: str | Path, head: Head, preprocessing: Preprocessing) -> None:
    """Raise :class:`StoreError` that names every setting in which ``preprocessing`` differs."""
    made = head.rules
    if preprocessing.spacing == head.spacing_mm:
        made = made.resolved(head.spacing_mm)
    old, new = made.model_dump(), preprocessing.model_dump()
    differing = [f"{k} is {old[k]}, asked for {new[k]}" for k in new if old[k] != new[k]]
    if differing:
        raise StoreError(
            f"the store {path} was made with other settings ({'; '.join(differing)}); "
            "choose another folder, or the same settings"
        )


def _reopened(path: Path, fingerprint: str) -> Store:
    origin(path)  # says so where a copy was deleted meanwhile
    store = Store.open(path)
    if store.fingerprint != fingerprint:
        raise StoreError(f"the store {path} was prepared anew while it was in use; start again")
    return store


def _refusals(path: Path, count: int, checksum: str) -> list[Refusal]:
    with suppress(OSError, ValidationError):
        text = path.read_bytes()
        if not checksum or sha256(text) == checksum:
            rows = [Refusal.model_validate_json(line) for line in text.splitlines()]
            if len(rows) == count:
                return rows
    raise StoreError(f"{path} is damaged; 'situs prepare' with the same settings repairs it")
