"""A store that lies elsewhere, read piece by piece into a folder of this machine.

What a store says of itself is copied once and never changes: a store that is uploaded anew gets
another folder. A scan's voxel file is made as long as the real one, without taking room, and each
piece of it (a chunk of voxels) is fetched when a crop first needs it. A piece counts as there when
its checksum fits, and only then: what was truncated, or flipped since, is fetched again. Several
processes may fill one file, since all write the same bytes to the same place.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from situs.errors import SitusError, StoreError
from situs.files import file_sha256, naming, sha256, write_file, write_files
from situs.remote import Remote, remote
from situs.store.chunks import StoredArray
from situs.store.index import open_index
from situs.store.paths import HEAD, INDEX, RECORDS, REFUSED, array_file, sums_file
from situs.store.record import Head, read_head
from situs.store.room import ORIGIN, cache_bytes, cache_root, room

UPLOAD_AGAIN = "'situs upload --verify' with the store it came from writes it again"
_HEAD_AGAIN = "delete what lies there, then 'situs upload' with the store it came from"
REMOTE_SCANS = (
    "no store at {0}. Of scans make one with 'situs prepare {0} --out STORE', and copy it with "
    "'situs upload STORE URL' to where other machines are to read it"
)
_OPEN_FILES = 64
_TRIES = 20


def exists(url: str) -> bool:
    """Whether a store was begun behind a URL.

    Raises:
        Unreachable: If the place does not answer.
    """
    try:
        remote(url).read(HEAD)
    except FileNotFoundError:
        return False
    return True


def mirror(url: str) -> Path:
    """A folder in the cache that reads as the store behind a URL.

    Raises:
        SitusError: If this machine cannot read parts of files as the cache does.
        StoreError: If there is no whole store.
        Unreachable: If the place does not answer.
    """
    if not hasattr(os, "pread"):  # absent on Windows
        raise SitusError(f"{url} can be read on Linux and macOS only; copy the store to this disk")
    cache_bytes()  # a bound that cannot be read is told before anything is fetched
    place = remote(url)
    try:
        text = place.read(HEAD)
    except FileNotFoundError:
        raise StoreError(REMOTE_SCANS.format(url)) from None
    head = read_head(text, f"{url}/{HEAD}", _HEAD_AGAIN)
    if not head.complete:
        raise StoreError(
            f"the store {url} is not whole yet; 'situs upload' with the same store goes on where "
            "it stopped"
        )
    folder = cache_root() / "stores" / sha256(url, "\n", text, digits=32)
    own = {HEAD: text, ORIGIN: json.dumps({"url": url}).encode()}
    if not _is_copied(folder, head, own):
        write_files(folder, {**_index(place, head), **own})
    return folder


def _is_copied(folder: Path, head: Head, own: dict[str, bytes]) -> bool:
    """Whether all that a store says of itself is here, as it was written."""
    wanted = {name: sha256(content) for name, content in own.items()}
    wanted |= {REFUSED: head.refused_checksum}
    index, records = folder / INDEX, folder / RECORDS
    if open_index(index, records, head.scans, head.records_checksum) is None:
        wanted |= {RECORDS: head.records_checksum}  # else each record, when it is read
    found = {name: file_sha256(folder / name) for name in wanted}
    return all(found[name] and wanted[name] in ("", found[name]) for name in wanted)


def _index(place: Remote, head: Head) -> dict[str, bytes]:
    """The lists of scans and of refused ones, whole."""
    found = {}
    for name, checksum in ((RECORDS, head.records_checksum), (REFUSED, head.refused_checksum)):
        try:
            found[name] = place.read(name)
        except FileNotFoundError:
            found[name] = b""
        if checksum and sha256(found[name]) != checksum:
            raise StoreError(
                f"{name} of the store {place.url} is damaged or of another upload; {UPLOAD_AGAIN}"
            )
    return found


def origin(store: Path) -> Remote | None:
    """Where a store in the cache came from; None for one that lies on this machine.

    Raises:
        SitusError: If it was deleted from the cache.
    """
    # Nowhere else: a store that was copied here must not say what is fetched.
    return _origin(store) if store.parent == cache_root() / "stores" else None


@lru_cache(maxsize=64)
def _origin(store: Path) -> Remote | None:
    try:
        return Remote(str(json.loads((store / ORIGIN).read_bytes())["url"]))
    except FileNotFoundError:
        if (store / HEAD).is_file():  # somebody's own store, which lies there
            return None
        # No damage of a scan, which a training would go on without.
        raise SitusError(
            f"{store} was deleted from the cache while it was in use; the same command fetches it "
            "anew"
        ) from None


def stored_sha256(store: Path, file: Path) -> str:
    """SHA-256 of a store's file where the store lies; empty where there is none."""
    place = origin(store)
    return file_sha256(file) if place is None else place.sha256(_name(store, file))


def stored_bytes(store: Path, file: Path) -> bytes:
    """The content of a store's file where the store lies."""
    place = origin(store)
    return file.read_bytes() if place is None else place.read(_name(store, file))


def _name(store: Path, file: Path) -> str:
    return file.relative_to(store).as_posix()


@lru_cache(maxsize=_OPEN_FILES)
def open_array(store: Path, key: str, size: int, checksum: str, sums: str = "") -> StoredArray:
    """The array of a scan; it and some recent ones stay open in this process.

    Args:
        store: The store's folder, or its copy in the cache.
        key: Name of the scan.
        size: Its size in bytes.
        checksum: SHA-256 that it had when it was written.
        sums: That of the table of checksums, likewise; empty where there is none.

    Raises:
        StoreError: If the file is absent, of another size, or not as it was written.
        Unreachable: If it lies behind a URL that does not answer.
    """
    path, place = array_file(store, key), origin(store)
    if place is None:
        return StoredArray(path, size, checksum, sums)
    return CachedArray(path, size, checksum, sums, place, store)


class CachedArray(StoredArray):
    """Voxels behind a URL, of which this machine holds what was read so far.

    Args:
        file: Where they are kept here.
        size: Of the real file in bytes.
        checksum: SHA-256 of the real file.
        sums: SHA-256 of its table of checksums; without one the whole file is fetched.
        place: Where the store lies.
        store: The store's folder here.
    """

    _all: ClassVar[weakref.WeakSet[CachedArray]] = weakref.WeakSet()

    def __init__(
        self, file: Path, size: int, checksum: str, sums: str, place: Remote, store: Path
    ) -> None:
        self._place, self._store = place, store
        self._held = -1
        super().__init__(file, size, checksum, sums)
        self._all.add(self)

    def _ready(self, box: tuple[slice, ...]) -> None:
        """Fetch what is missing of a box."""
        if not self._is_there():
            self._open()
        os.utime(self._held)  # used last
        super()._ready(box)

    def _open(self) -> None:
        for other in list(self._all):
            if not other._is_there():
                other._close()  # its room is free only then
        for _ in range(_TRIES):
            if not self._sums:
                self._fetch_whole()
            try:
                self._hold()
                super()._open()
            except (StoreError, FileNotFoundError):
                if self._is_there():
                    raise
            if self._is_there():  # else deleted to make room, just now
                return
        raise SitusError(
            f"{self.file.name} was deleted {_TRIES} times while it was opened: SITUS_CACHE_GB is "
            "too small for so many processes"
        )

    def _hold(self) -> None:
        self._close()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        # Without a table nothing tells a file that was just made from the whole one.
        made = os.O_CREAT if self._sums else 0
        self._held = os.open(self.file, os.O_RDWR | made, 0o666)
        self._let_go = weakref.finalize(self, os.close, self._held)
        os.ftruncate(self._held, self.size)

    def _close(self) -> None:
        for mapped in ("_voxels", "_mapped"):
            self.__dict__.pop(mapped, None)
        if self._held >= 0:
            self._let_go()
            self._held = -1

    def _table(self) -> bytes:
        file = sums_file(self.file)
        with suppress(FileNotFoundError):
            if sha256(table := file.read_bytes()) == self._sums:
                return table
        try:
            table = self._place.read(_name(self._store, file))
        except FileNotFoundError:
            raise self._damaged("its table of checksums is missing") from None
        if sha256(table) != self._sums:
            raise self._damaged("the checksum of its table does not fit")
        write_file(file, table)
        return table

    def _opened_with(self, pieces: int) -> set[int]:
        """Also the first chunk, whose header says how all are divided into blocks."""
        return {0, min(1, pieces - 1), pieces - 1}

    def _known_whole(self, pieces: int) -> npt.NDArray[np.bool_]:
        """None: another process, or an earlier file of this name, is no witness."""
        return np.zeros(pieces, dtype=bool)

    def _check_size(self) -> None:
        """Of the file that is held, which may have lost its name to make room."""
        if os.fstat(self._held).st_size != self.size:
            raise self._damaged("its copy on this machine was truncated")

    def _is_there(self) -> bool:
        """Whether the file that is held is still the one of its name."""
        try:
            return self._held >= 0 and os.path.samestat(os.stat(self.file), os.fstat(self._held))
        except FileNotFoundError:
            return False

    def _check(self, pieces: Iterable[int]) -> None:
        """Fetch pieces that are not here, or not as they were written."""
        missing = []
        for piece in sorted(piece for piece in pieces if not self._whole[piece]):
            start, end = self._span(piece)
            if self._fits(piece, os.pread(self._held, end - start, start)):
                self._whole[piece] = True
            else:
                missing.append(piece)
        if missing:
            self._fetch(missing)

    def _fetch(self, pieces: list[int]) -> None:
        runs = list(_runs(pieces))
        spans = [(self._span(first)[0], self._span(last)[1]) for first, last in runs]
        try:
            contents = self._place.read_ranges(_name(self._store, self.file), spans)
        except FileNotFoundError:
            raise self._damaged("missing") from None
        for (first, last), (begin, _), content in zip(runs, spans, contents, strict=True):
            for piece in range(first, last + 1):
                start, end = self._span(piece)
                if not self._fits(piece, content[start - begin : end - begin]):
                    raise self._damaged("its checksum does not fit")
            with naming(self.file):
                _write_at(self._held, content, begin)
            self._whole[first : last + 1] = True
        room.taken(sum(end - begin for begin, end in spans))

    def _fetch_whole(self) -> None:
        """Of a store made before chunks had checksums."""
        with suppress(FileNotFoundError):
            if self.file.stat().st_size == self.size:
                return
        try:
            content = self._place.read(_name(self._store, self.file))
        except FileNotFoundError:
            raise self._damaged("missing") from None
        if sha256(content) != self._checksum:
            raise self._damaged("its checksum does not fit")
        write_file(self.file, content)
        room.taken(len(content))

    def _damaged(self, state: str) -> StoreError:
        return StoreError(
            f"{self.file.name} in the store {self._place.url} is damaged ({state}); {UPLOAD_AGAIN}"
        )


def _runs(pieces: list[int]) -> Iterator[tuple[int, int]]:
    """First and last of pieces that follow each other."""
    first = last = pieces[0]
    for piece in pieces[1:]:
        if piece != last + 1:
            yield first, last
            first = piece
        last = piece
    yield first, last


def _write_at(held: int, content: bytes, start: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(held, view, start)
        view, start = view[written:], start + written
