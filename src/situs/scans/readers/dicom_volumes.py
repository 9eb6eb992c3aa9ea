"""Which slices of a series make which volume: one step for every kind of DICOM series.

The slices of a series, classic or frames of one or several enhanced objects, are grouped by
their place along the normal. Then, with the keys of ``dicom_keys`` in their order of precedence:

1. A key whose values are the same at every place, each equally often, tells volumes apart. A key
   that is not (a trigger time of its own for every image) says nothing about volumes.
2. Acquisitions (or echoes, …) whose slices lie on lattices of their own are volumes of their own,
   unless only together they leave no gaps; then they are one stack.
3. Slices of one place and one picture that no key but time and numbers tells apart are copies.
4. What is left is ordered within each place by a key that orders all places alike.
5. Where nothing tells, the series is refused. Files' names and their order say nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from situs.scans.readers.dicom_grouping import FEWEST, Places, classes_of, complete, ranked, table
from situs.scans.readers.dicom_headers import Slice
from situs.scans.readers.dicom_keys import ACQUISITION, KEYS, MISSING, Key
from situs.scans.refusals import refuse

Array = npt.NDArray[np.float64]

# Headers carry positions rounded to as little as two decimals; a micro-CT's slices lie closer.
_ROUNDING_MM = 0.02
_SAME_PLACE_SHARE = 0.1
EVEN_SHARE = 0.02
"""Gaps between slices that differ by this share of the typical one are alike."""
_GAPLESS = 1.5  # steps up to this multiple of the slice thickness leave nothing out


@dataclass(frozen=True)
class Arrangement:
    """The volumes of a series.

    Attributes:
        volumes: Slices along the normal, a list for each volume.
        told_by: Names of the keys that tell the volumes apart.
        notes: What was handled.
    """

    volumes: list[list[Slice]]
    told_by: tuple[str, ...]
    notes: tuple[str, ...]


def arrange(
    slices: Sequence[Slice], normal: Array, path: Path, fingerprint: Callable[[Slice], str]
) -> Arrangement:
    """Sort the slices of a series into volumes.

    Args:
        slices: Parallel and of one size, in any order; the order does not matter.
        normal: Unit vector ``(3,)`` perpendicular to them, LPS.
        path: For errors.
        fingerprint: Tells whether two slices hold the same pixels; asked only where headers
            do not tell.

    Raises:
        ScanRefused: ``duplicate-slices`` or ``mixed-acquisitions``.
    """
    work = _Arranger(normal, path, fingerprint)
    ordered = sorted(slices, key=lambda s: (s.position_mm, s.index, s.keys, s.instance))
    places = [work.without_copies(place) for place in work.places(ordered)]
    volumes = work.split(places)
    if work.copies:
        work.notes.append(f"left out {work.copies} copies of slices")
    return Arrangement(volumes, tuple(dict.fromkeys(work.told_by)), tuple(work.notes))


def same_place_mm(distances: Array, slices: Sequence[Slice]) -> float:
    """Slices closer than this along the normal lie at one place.

    Rounding of positions, but at most a tenth of what separates the slices of this series: the
    largest gap, or else the sides of a voxel.

    Args:
        distances: ``(N,)`` along the normal, sorted.
        slices: Any of them.
    """
    gap = float(np.diff(distances).max(initial=0.0))
    side = min(min(s.spacing) for s in slices)
    thickness = min((s.thickness for s in slices if s.thickness > 0), default=side)
    return min(_ROUNDING_MM, _SAME_PLACE_SHARE * max(gap, min(side, thickness)))


def even_step(distances: Array) -> float | None:
    """The step of evenly spaced positions, ``(N,)`` sorted; None where they are not even."""
    gaps = np.diff(distances)
    if len(gaps) + 1 < FEWEST:
        return None
    typical = float(np.median(gaps))
    return typical if (np.abs(gaps - typical) <= step_tolerance(typical)).all() else None


def step_tolerance(step: float) -> float:
    """By how much a gap may differ from ``step``, in mm: rounding, in proportion to the step."""
    return max(EVEN_SHARE * step, min(_ROUNDING_MM, _SAME_PLACE_SHARE * step))


@dataclass
class _Arranger:
    """One arrangement under way; collects notes."""

    normal: Array
    path: Path
    fingerprint: Callable[[Slice], str]
    notes: list[str] = field(default_factory=list)
    told_by: list[str] = field(default_factory=list)
    copies: int = 0

    def places(self, slices: Sequence[Slice]) -> Places:
        """Slices grouped by their distance along the normal, nearest first."""
        distances = np.array([s.position_mm for s in slices]) @ self.normal
        order = np.argsort(distances, kind="stable")
        tolerance = same_place_mm(distances[order], slices)
        starts = np.diff(distances[order], prepend=-np.inf) > tolerance
        places: Places = []
        for index, new in zip(order, starts, strict=True):
            if new:
                places.append([])
            places[-1].append(slices[index])
        return places

    def without_copies(self, place: list[Slice]) -> list[Slice]:
        """Drop slices whose header and pixels repeat another's; a UID alone proves nothing."""
        alike: dict[object, list[Slice]] = defaultdict(list)
        for s in place:
            alike[s.index, s.keys, s.slope, s.intercept].append(s)
        kept = []
        for group in alike.values():
            seen = {self.fingerprint(s) if len(group) > 1 else "": s for s in group[::-1]}
            self.copies += len(group) - len(seen)
            kept.extend(list(seen.values())[::-1])
        return kept

    def split(self, places: Places) -> list[list[Slice]]:
        """The volumes of places that hold several slices each; see the module."""
        if all(len(place) == 1 for place in places):
            apart = self._apart(places)
            if apart is None:
                return [[s for (s,) in places]]
        else:
            for key, read in table(places):
                if not key.weak and (groups := complete(places, key, read)):
                    return self._each(key, groups)
            apart = self._apart(places)
            if apart is None:
                return self._by_weak_keys(places)
        key, groups = apart
        return self._each(key, groups)

    def _each(self, key: Key, groups: Sequence[Places]) -> list[list[Slice]]:
        self.told_by.append(key.name)
        return [volume for group in groups for volume in self.split(group)]

    def _by_weak_keys(self, places: Places) -> list[list[Slice]]:
        fewer = self._without_equal_pictures(places)
        if fewer is not None:
            return self.split(fewer)
        for key, read in table(places):
            if key.weak and (groups := complete(places, key, read)):
                return self._each(key, groups)
        counts = {len(place) for place in places}
        if len(counts) > 1:
            detail = f"positions hold {min(counts)} to {max(counts)} different slices"
            raise refuse("duplicate-slices", self.path, detail + _named_acquisitions(places))
        found = ranked(places)
        if found is None:
            detail = f"positions hold {counts.pop()} slices, and nothing tells their volumes apart"
            raise refuse("duplicate-slices", self.path, detail)
        key, volumes = found
        self.told_by.append(key.name)
        return volumes

    def _without_equal_pictures(self, places: Places) -> Places | None:
        pictures = []
        for place in places:
            seen = {(self.fingerprint(s), s.slope, s.intercept): s for s in place[::-1]}
            pictures.append(list(seen.values())[::-1])
        dropped = sum(map(len, places)) - sum(map(len, pictures))
        # Equal pictures at some places of a complete series are moments when nothing moved.
        if not dropped or not (_even(pictures) or not _even(places)):
            return None
        self.copies += dropped
        return pictures

    def _apart(self, places: Places) -> tuple[Key, list[Places]] | None:
        """Groups of slices, told apart by one key, that lie on lattices of their own."""
        distances = self._distances(places)
        slices = [s for place in places for s in place]
        joined = ""
        for key, read in table(places):
            if key.weak:
                continue
            classes = classes_of([read(s) for s in slices], key, len(slices) // FEWEST)
            if classes is None or len(set(classes.values())) < 2:
                continue
            by_class: dict[int, Places] = defaultdict(list)
            for place in places:
                for number in sorted({classes[read(s)] for s in place}):
                    by_class[number].append([s for s in place if classes[read(s)] == number])
            groups = [by_class[number] for number in sorted(by_class)]
            verdict = self._judge(groups, distances, _even(places) and len(places[0]) == 1)
            if verdict == "apart":
                return key, groups
            if verdict == "unclear":
                detail = f"{len(groups)} groups of slices interleave ({key.name}), and the "
                detail += "header does not say whether they are one stack"
                raise refuse("mixed-acquisitions", self.path, detail)
            if key is KEYS[ACQUISITION] and verdict in ("joined", "one lattice"):
                joined = f"joined {len(groups)} acquisitions into one stack"
        if joined:
            self.notes.append(joined)
        return None

    def _judge(self, groups: Sequence[Places], union: Array, single: bool) -> str:
        """Whether groups are volumes of their own ("apart"), or parts of one.

        Args:
            groups: Places of each group.
            union: ``(N,)`` distances of all places.
            single: Whether every place holds one slice.
        """
        own = [self._distances(group) for group in groups]
        steps = [even_step(d) for d in own]
        if any(step is None for step in steps) or not all(map(_even, groups)):
            return "not even"
        known = [step for step in steps if step is not None]
        if _one_lattice(own, known):
            return "one lattice"
        together = even_step(union) if single else None
        if together is None:
            return "apart"
        first = groups[0][0][0]
        if first.step_mm > 0:
            nearer = abs(together - first.step_mm) < abs(min(known) - first.step_mm)
            return "joined" if nearer else "apart"
        if min(known) <= _GAPLESS * first.thickness:
            return "apart"
        return "joined" if together <= _GAPLESS * first.thickness else "unclear"

    def _distances(self, places: Places) -> Array:
        found: Array = np.array([place[0].position_mm for place in places]) @ self.normal
        return found


def _one_lattice(distances: Sequence[Array], steps: Sequence[float]) -> bool:
    """Whether all groups have one step and lie whole steps from each other."""
    step = steps[0]
    if any(abs(other - step) > step_tolerance(step) for other in steps):
        return False
    shifts = np.array([d[0] - distances[0][0] for d in distances]) / step
    return bool((np.abs(shifts - np.round(shifts)) <= _SAME_PLACE_SHARE).all())


def _even(places: Places) -> bool:
    return len({len(place) for place in places}) == 1


def _named_acquisitions(places: Places) -> str:
    found = sorted({s.keys[ACQUISITION] for place in places for s in place} - {MISSING})
    if len(found) < 2:
        return ""
    return "; acquisitions " + ", ".join(f"{a[0]:g}" for a in found[:8])
