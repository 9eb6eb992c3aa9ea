"""Which scans never part company: those of a patient, a study, a file, and near-duplicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from situs.catalog.links import linked


def scan_groups(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Group of every scan, by its key; a group is named by its first key.

    Scans that share a patient, a study or a file (volumes of one file or series) are of one
    group, so are near-duplicates, and so is whatever is linked over several of these: a patient's
    scans follow one of them to its near-duplicate under another name.

    Args:
        records: ``key``, ``near_duplicate_of``, ``patient``, ``study``, ``series`` and ``source``
            of each scan, as in a store's records; what is unknown is empty.
    """
    keys = [("scan", record["key"]) for record in records]
    links = [
        (key, mark) for key, record in zip(keys, records, strict=True) for mark in _marks(record)
    ]
    groups = linked(keys, links)
    first: dict[tuple[str, str], str] = {}
    for _, key in sorted(keys):
        first.setdefault(groups["scan", key], key)
    return {key: first[groups["scan", key]] for _, key in keys}


def _marks(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a scan shares with others of its group; its own key among them."""
    marks = [
        ("scan", record["key"]),
        ("scan", record["near_duplicate_of"]),
        ("patient", record["patient"]),
        ("study", record["study"]),
        # Several series can lie in one folder, but a series without identifier has it for itself.
        ("file", record["series"] or record["source"]),
    ]
    return [(kind, value) for kind, value in marks if value]
