"""What was recognised in the studies of a catalog, as a table with a row a series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from situs.catalog.measure import Entry
from situs.catalog.studies import Recognised, RoleRules, recognise, recognise_study


class StudyRow(NamedTuple):
    """One series of a study, for a table."""

    study: str
    series: str
    words: str
    slices: int
    frames: int
    spacing: tuple[float, ...]
    recognised: Recognised


def study_table(entries: Sequence[Entry], rules: RoleRules) -> list[StudyRow]:
    """One row a series of a catalog: what was recognised and what was not.

    Args:
        entries: Accepted entries of a catalog; entries that are volumes (time frames) of one
            series make one row.
        rules: Whose roles.
    """
    studies: dict[str, list[Entry]] = {}
    for entry in entries:
        studies.setdefault(entry.study or entry.key, []).append(entry)
    rows = []
    for _, members in sorted(studies.items()):
        series = [_EntrySeries(entry) for entry in members]
        seen = {
            id(part): found
            for stack, found in recognise_study(series, rules)
            for part in stack.series
        }
        frames: dict[str, list[_EntrySeries]] = {}
        for one in series:
            frames.setdefault(one.entry.series or one.entry.key, []).append(one)
        rows += [_row(frames[name], seen, rules) for name in sorted(frames)]
    return rows


def _row(
    frames: Sequence[_EntrySeries], seen: Mapping[int, Recognised], rules: RoleRules
) -> StudyRow:
    first = frames[0]
    own = recognise(first, rules)
    slices = first.shape[own.axis] if own.axis is not None else 0
    entry, name = first.entry, first.entry.series or first.entry.key
    return StudyRow(
        entry.study,
        name,
        first.description,
        slices,
        len(frames),
        entry.spacing,
        seen.get(id(first), own),
    )


class _EntrySeries:
    """A catalog's entry as a :class:`Series`."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        x, y, z = entry.shape
        self.shape = (x, y, z)
        a, b, c = entry.spacing
        self.spacing = (a, b, c)
        self.affine = np.array(entry.affine, dtype=np.float64).reshape(4, 4)
        self.description = entry.description
