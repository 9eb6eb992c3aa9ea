"""Hold everything in a store against what was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from situs.errors import Fault, StoreError
from situs.store.paths import array_file, record_file
from situs.store.record import Record, is_sealed
from situs.store.store import Store, is_whole

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
        return [Fault(str(path), str(error))]
    faults = []
    for number, scan in enumerate(store, 1):
        if not is_whole(store.path, scan.record):
            faults.append(Fault(str(array_file(store.path, scan.key)), f"is damaged; {_AGAIN}"))
        faults += _record(store.path, scan.record)
        if progress is not None:
            progress(number, len(store))
    return faults


def _record(store: Path, listed: Record) -> list[Fault]:
    """The scan's own record, which a later preparation goes on from."""
    file = record_file(store, listed.key)
    try:
        text = file.read_bytes()
        whole = is_sealed(text) and Record.model_validate_json(text).key == listed.key
    except (OSError, ValidationError):
        whole = False
    return [] if whole else [Fault(str(file), f"is damaged; {_AGAIN}")]
