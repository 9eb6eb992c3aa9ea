"""Where a store keeps what.

store.json          format, preprocessing, spacing, fingerprint, whether it is complete
records.jsonl       one line a scan
records.index       where each line begins; made anew where it is absent
refused.jsonl       one line a refused scan
scans/ab/ab12….b2nd voxels, blosc2, chunked
scans/ab/ab12….sums checksums of the voxel file's chunks, binary: length, CRC-32
scans/ab/ab12….json the scan's record; written last, so that its presence means "whole"
"""

from __future__ import annotations

from pathlib import Path

HEAD = "store.json"
RECORDS = "records.jsonl"
INDEX = "records.index"
REFUSED = "refused.jsonl"


def array_file(store: Path, key: str) -> Path:
    """Voxels of a scan. Folders by the key's first letters hold few files each."""
    return store / "scans" / key[:2] / f"{key}.b2nd"


def sums_file(array: Path) -> Path:
    """Checksums of the pieces of a voxel file, beside it."""
    return array.with_suffix(".sums")


def record_file(store: Path, key: str) -> Path:
    """Record of a scan."""
    return store / "scans" / key[:2] / f"{key}.json"
