"""Scans that are in a collection twice, as they are or in another guise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from situs.catalog.links import linked
from situs.catalog.measure import Entry, Measured
from situs.catalog.near_duplicates import Thumbnail, pairs_alike


def mark_duplicates(measured: Sequence[Measured]) -> list[Entry]:
    """Fill in ``duplicate_of`` and ``near_duplicate_of``.

    Duplicates hold the same values. Near-duplicates look alike
    (:data:`~situs.catalog.near_duplicates.ALIKE`) after a change of file format, axis order,
    number format, voxel size or intensities, or under slight noise. Scans that go together
    anyway, those of one patient, study or file, are not asked whether they look alike: the
    phases of one heart do. What looks alike over several steps is marked with the earliest of
    them all, so that whoever keeps near-duplicates together keeps all of these.

    Args:
        measured: In the order in which "earlier" is meant.
    """
    first: dict[str, str] = {}
    marked: dict[str, dict[str, str]] = {}
    asked: list[tuple[Entry, Thumbnail]] = []
    for item in measured:
        entry = item.entry
        if not entry.accepted:
            continue
        same = first.setdefault(entry.content, entry.key)
        if same != entry.key:
            marked[entry.key] = {"duplicate_of": same}
        elif item.thumbnail is not None:
            asked.append((entry, item.thumbnail))
    for earliest, later in _chained(asked):
        marked[later.key] = {"near_duplicate_of": earliest.key}
    entries = [item.entry for item in measured]
    return [e.model_copy(update=marked[e.key]) if e.key in marked else e for e in entries]


def _chained(asked: Sequence[tuple[Entry, Thumbnail]]) -> Iterator[tuple[Entry, Entry]]:
    """Each scan that looks like others, after the earliest that it hangs together with."""
    entries = [entry for entry, _ in asked]
    alike = pairs_alike(
        [picture for _, picture in asked], skip=lambda i, j: _together(entries[i], entries[j])
    )
    links = [(i, j) for i, j, _ in alike]
    for later, earliest in linked(range(len(entries)), links).items():
        if later != earliest and not _together(entries[earliest], entries[later]):
            yield entries[earliest], entries[later]


def _together(first: Entry, second: Entry) -> bool:
    """Whether two scans share a patient, a study or a file."""
    return any(
        mark and mark == other
        for mark, other in zip(
            (first.patient, first.study, first.series or first.path),
            (second.patient, second.study, second.series or second.path),
            strict=True,
        )
    )
