"""Scans that are in a collection twice, as they are or in another guise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from situs.catalog.measure import Entry, Measured

SIMILAR = 0.9995
"""Correlation of two coarse pictures above which scans count as near-duplicates."""

_BLOCK = 2048


def mark_duplicates(measured: Sequence[Measured]) -> list[Entry]:
    """Fill in ``duplicate_of`` and ``near_duplicate_of``.

    Duplicates hold the same values. Near-duplicates have the same numbers of voxels in RAS order
    and coarse pictures that agree up to a factor and an offset: another file format, axis order,
    number format, intensity scale, or slight noise. A crop or a resampled copy is not found.

    Args:
        measured: In the order in which "earlier" is meant.
    """
    first: dict[str, str] = {}
    marked: dict[str, tuple[str, str]] = {}
    buckets: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, item in enumerate(measured):
        entry = item.entry
        if not entry.accepted:
            continue
        same = first.setdefault(entry.content, entry.key)
        if same != entry.key:
            marked[entry.key] = (same, "")
        elif item.coarse is not None:
            buckets[_ras_shape(entry)].append(index)
    for indices in buckets.values():
        for later, earlier in _similar(measured, indices):
            marked[measured[later].entry.key] = ("", measured[earlier].entry.key)
    return [_marked(item.entry, marked) for item in measured]


def _marked(entry: Entry, marked: dict[str, tuple[str, str]]) -> Entry:
    if entry.key not in marked:
        return entry
    same, near = marked[entry.key]
    return entry.model_copy(update={"duplicate_of": same, "near_duplicate_of": near})


def _ras_shape(entry: Entry) -> tuple[int, ...]:
    axes = ["RLAPSI".index(code) // 2 for code in entry.orientation]
    return tuple(n for _, n in sorted(zip(axes, entry.shape, strict=True)))


def _similar(measured: Sequence[Measured], indices: list[int]) -> list[tuple[int, int]]:
    """Each index with the earliest other that looks like it, in blocks of rows."""
    pictures = np.stack([measured[i].coarse for i in indices])  # type: ignore[misc]
    pairs = []
    for start in range(0, len(indices), _BLOCK):
        rows = pictures[start : start + _BLOCK]
        close = rows @ pictures[: start + len(rows)].T > SIMILAR
        for row, similar in enumerate(close):
            earlier = np.flatnonzero(similar[: start + row])
            if len(earlier):
                pairs.append((indices[start + row], indices[int(earlier[0])]))
    return pairs
