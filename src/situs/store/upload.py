"""Copy a store to a URL: goes on where it stopped, every file read back, the index last."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from situs.errors import StoreError
from situs.files import file_sha256
from situs.places import url_of
from situs.remote import Remote, remote
from situs.store.card import data_card
from situs.store.paths import HEAD, RECORDS, REFUSED, array_file, record_file, sums_file
from situs.store.record import Head, Record, read_head, sealed
from situs.store.store import Store, check_preprocessing
from situs.store.store import read_head as read_local_head

Progress = Callable[[int, int], None]

CARD = "README.md"
_THREADS = 8


@dataclass(frozen=True)
class Uploaded:
    """What an upload did.

    Attributes:
        url: Where the store lies now.
        scans: That it holds.
        copied: Of them, those that were not there yet, or not whole.
        bytes: That were copied for them.
    """

    url: str
    scans: int
    copied: int
    bytes: int


def upload(
    store: str | Path, url: str, *, verify: bool = False, progress: Progress | None = None
) -> Uploaded:
    """Copy a store to a URL that fsspec writes to.

    A scan's record follows its voxels once these were read back and are what was written, so that
    a second call knows what is there. The store says that it is unfinished until its index is
    there too. Beside it lies a card of what it holds.

    Args:
        store: Its folder.
        url: Of the folder to copy it to, such as ``s3://bucket/store``.
        verify: Also read back what was there before.
        progress: Told how many of how many scans are there.

    Raises:
        StoreError: If the store is not whole, something else lies at ``url``, or what is read
            back is not what was written.
        Unreachable: If the place does not answer, or takes nothing.
    """
    whole_url = url_of(url)
    if whole_url is None:
        raise StoreError(f"'{url}' is no URL; give one such as s3://bucket/store")
    local, place = Store.open(store), remote(whole_url)
    if local.remote:
        raise StoreError(f"{local.place} is not on this machine; copy it with its provider's tools")
    head = read_local_head(local.path)
    whole = _begin(place, local, head)
    records = [scan.record for scan in local]
    with ThreadPoolExecutor(_THREADS) as pool:
        there = place.sizes("scans")
        work = [
            pool.submit(_upload_scan, place, local.path, record, there, verify)
            for record in records
        ]
        try:
            copied = []
            for number, done in enumerate(as_completed(work), 1):
                copied.append(done.result())
                if progress is not None:
                    progress(number, len(work))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if not whole or verify or any(copied):
        for name in (RECORDS, REFUSED, HEAD):
            _put(place, name, local.path / name, file_sha256(local.path / name))
        preprocessing = local.preprocessing.of_voxels()
        card = data_card(local.records, local.refused, preprocessing, local.fingerprint)
        place.write(CARD, card.encode())
    return Uploaded(place.url, len(records), sum(map(bool, copied)), sum(copied))


def _begin(place: Remote, store: Store, head: Head) -> bool:
    """Say that a store begins there; whether this very one is there already, by what it says."""
    own = (store.path / HEAD).read_bytes()
    try:
        found = place.read(HEAD)
    except FileNotFoundError:
        if others := place.names():
            raise StoreError(
                f"{place.url} holds something that is no store ({', '.join(others[:3])}); choose "
                "another URL"
            ) from None
    else:
        if found == own:
            return True
        remedy = "choose another URL, or delete what lies there"
        check_preprocessing(place.url, read_head(found, f"{place.url}/{HEAD}", remedy), head.rules)
    begun = head.model_copy(update={"complete": False})
    place.write(HEAD, sealed(begun, indent=1).encode())
    return False


def _upload_scan(
    place: Remote, store: Path, record: Record, there: dict[str, int], verify: bool
) -> int:
    """Copy a scan unless it is there; returns the bytes that were copied."""
    note = record_file(store, record.key)
    voxels = array_file(store, record.key)
    files = {voxels: record.checksum}
    if record.sums:
        files[sums_file(voxels)] = record.sums
    if _is_there(place, store, note, files, there) and not (
        verify and any(place.sha256(_name(store, f)) != sha for f, sha in files.items())
    ):
        return 0
    for file, checksum in files.items():
        _put(place, _name(store, file), file, checksum)
    _put(place, _name(store, note), note, file_sha256(note))
    return sum(file.stat().st_size for file in (note, *files))


def _is_there(
    place: Remote, store: Path, note: Path, files: Iterable[Path], there: dict[str, int]
) -> bool:
    """Whether a scan's record there is this one, and its files have their sizes."""
    for file in (note, *files):
        if not file.is_file() or there.get(_name(store, file)) != file.stat().st_size:
            return False
    return place.read(_name(store, note)) == note.read_bytes()


def _put(place: Remote, name: str, file: Path, checksum: str) -> None:
    """Copy a file and read it back."""
    if not checksum or checksum != file_sha256(file):
        raise StoreError(
            f"{file} is {'damaged' if file.is_file() else 'missing'}; 'situs prepare --verify' "
            "with the same catalog and settings writes it again"
        )
    place.put(name, str(file))
    if place.sha256(name) != checksum:
        raise StoreError(f"{place.url}/{name} is not what was copied there; give the command again")


def _name(store: Path, file: Path) -> str:
    return file.relative_to(store).as_posix()
