"""Hold everything in a store against what was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from situs.errors import Fault, StoreError
from situs.files import file_sha256
from situs.store.paths import HEAD, RECORDS, REFUSED, array_file, record_file, sums_file
from situs.store.record import Record, is_sealed
from situs.store.store import Store

_AGAIN = "'situs prepare --verify' with the same catalog and settings writes it again"


def check_store(path: Path, progress: Callable[[int, int], None] | None = None) -> list[Fault]:
    """What is damaged or missing in a store; reads every file.

    Args:
        path: Its folder.
        progress: Told how many of how many scans are done.
    """
    try:
        store = Store.open(path)
        _ = store.refused
    except StoreError as error:
        named = (name for name in (RECORDS, REFUSED) if str(path / name) in str(error))
        return [Fault(str(path / next(named, HEAD)), str(error))]
    faults = []
    for number, scan in enumerate(store, 1):
        voxels = array_file(store.path, scan.key)
        faults += _file(voxels, scan.record.checksum)
        if scan.record.sums:
            faults += _file(sums_file(voxels), scan.record.sums)
        faults += _record(store.path, scan.record)
        if progress is not None:
            progress(number, len(store))
    return faults


def _file(file: Path, checksum: str) -> list[Fault]:
    found = file_sha256(file)
    if found == checksum:
        return []
    return [Fault(str(file), f"is {'damaged' if found else 'missing'}; {_AGAIN}")]


def _record(store: Path, listed: Record) -> list[Fault]:
    """The scan's own record, which a later preparation goes on from."""
    file = record_file(store, listed.key)
    try:
        text = file.read_bytes()
        whole = is_sealed(text) and Record.model_validate_json(text).key == listed.key
    except (OSError, ValidationError):
        whole = False
    return [] if whole else [Fault(str(file), f"is damaged; {_AGAIN}")]
