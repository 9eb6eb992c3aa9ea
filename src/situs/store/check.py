"""Hold everything in a store against what was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from situs.errors import Fault, StoreError
from situs.places import spelled
from situs.store.cache import UPLOAD_AGAIN, stored_bytes, stored_sha256
from situs.store.paths import HEAD, RECORDS, REFUSED, array_file, record_file, sums_file
from situs.store.record import Record, is_sealed
from situs.store.store import Store

_AGAIN = "'situs prepare --verify' with the same catalog and settings writes it again"


def check_store(path: Path, progress: Callable[[int, int], None] | None = None) -> list[Fault]:
    """What is damaged or missing in a store; reads every file.

    Args:
        path: Its folder, or its URL.
        progress: Told how many of how many scans are done.
    """
    faults = []
    try:
        store = Store.open(path)
        _ = store.refused
        for number, scan in enumerate(store, 1):
            voxels = array_file(store.path, scan.record.key)
            faults += _file(store, voxels, scan.record.checksum)
            if scan.record.sums:
                faults += _file(store, sums_file(voxels), scan.record.sums)
            faults += _record(store, scan.record)
            if progress is not None:
                progress(number, len(store))
    except StoreError as error:  # of the store's own lists, whichever part of them is read
        place = spelled(path)
        named = (name for name in (RECORDS, REFUSED) if name in str(error).replace(place, ""))
        faults.append(Fault(f"{place}/{next(named, HEAD)}", str(error)))
    return faults


def _file(store: Store, file: Path, checksum: str) -> list[Fault]:
    found = stored_sha256(store.path, file)
    if found == checksum:
        return []
    return [_fault(store, file, "damaged" if found else "missing")]


def _record(store: Store, listed: Record) -> list[Fault]:
    """The scan's own record, which a later preparation goes on from."""
    file = record_file(store.path, listed.key)
    try:
        text = stored_bytes(store.path, file)
        whole = is_sealed(text) and Record.model_validate_json(text).key == listed.key
    except (OSError, ValidationError):
        whole = False
    return [] if whole else [_fault(store, file, "damaged")]


def _fault(store: Store, file: Path, state: str) -> Fault:
    if store.remote:
        name = f"{store.place}/{file.relative_to(store.path).as_posix()}"
        return Fault(name, f"is {state}; {UPLOAD_AGAIN}")
    return Fault(str(file), f"is {state}; {_AGAIN}")
