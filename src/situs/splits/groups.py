"""Which scans never part company: those of a patient, a study, a file, and near-duplicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def scan_groups(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Group of every scan, by its key; a group is named by its first key.

    Scans that share a patient, a study or a file (volumes of one file or series) are of one
    group, so are near-duplicates, and so is whatever is linked over several of these: a patient's
    scans follow one of them to its near-duplicate under another name.

    Args:
        records: ``key``, ``near_duplicate_of``, ``patient``, ``study``, ``series`` and ``source``
            of each scan, as in a store's records; what is unknown is empty.
    """
    marks = [_marks(record) for record in records]
    numbers: dict[tuple[str, str], int] = {}
    links = [
        (scan, len(records) + numbers.setdefault(mark, len(numbers)))
        for scan, own in enumerate(marks)
        for mark in own
    ]
    rows, columns = zip(*links, strict=True)
    size = len(records) + len(numbers)
    graph = coo_array((np.ones(len(links), bool), (rows, columns)), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    first: dict[int, str] = {}
    for key, number in sorted((r["key"], int(component[i])) for i, r in enumerate(records)):
        first.setdefault(number, key)
    return {record["key"]: first[int(component[i])] for i, record in enumerate(records)}


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
