"""Where a store keeps what, and writing so that a file appears whole or not at all.

store.json          format, rules, spacing, fingerprint, whether it is complete
records.jsonl       one line a scan: the index
refused.jsonl       one line a refused scan
scans/ab/ab12….b2nd voxels, blosc2, chunked
scans/ab/ab12….json the scan's record; written last, so that its presence means "whole"
"""

from __future__ import annotations

import os
import time
from pathlib import Path

HEAD = "store.json"
RECORDS = "records.jsonl"
REFUSED = "refused.jsonl"

_STALE_SECONDS = 3600.0


def array_file(store: Path, key: str) -> Path:
    """Voxels of a scan. Folders by the key's first letters hold few files each."""
    return store / "scans" / key[:2] / f"{key}.b2nd"


def record_file(store: Path, key: str) -> Path:
    """Record of a scan."""
    return store / "scans" / key[:2] / f"{key}.json"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name, flush it to the disk, and give it its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def remove_leftovers(store: Path) -> None:
    """Delete what workers that were killed left behind."""
    for part in store.glob("scans/*/.*.part"):
        if time.time() - part.stat().st_mtime > _STALE_SECONDS:
            part.unlink(missing_ok=True)
