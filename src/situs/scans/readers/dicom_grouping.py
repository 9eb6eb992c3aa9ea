"""What a key says of the slices of a series: whether it tells volumes apart, or orders them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from situs.scans.readers.dicom_headers import Slice
from situs.scans.readers.dicom_keys import ACQUISITION, GRADIENT, KEYS, MISSING, Key, Value

Places = list[list[Slice]]
"""Slices by their place along the normal."""

FEWEST = 3
"""Slices, or moments, that show an even step."""

_INDEX = Key("dimension index")


def table(places: Places) -> list[tuple[Key, Callable[[Slice], Value]]]:
    """The keys in order of precedence, each with what reads it of a slice."""
    most = max(len(s.index) for place in places for s in place)

    def index(i: int) -> Callable[[Slice], Value]:
        return lambda s: s.index[i : i + 1]

    def value(k: int) -> Callable[[Slice], Value]:
        return lambda s: s.keys[k]

    indices = [(_INDEX, index(i)) for i in range(most)]
    return indices + [(key, value(k)) for k, key in enumerate(KEYS)]


def complete(places: Places, key: Key, read: Callable[[Slice], Value]) -> list[Places] | None:
    """Places of each value of a key, if every place holds every value equally often."""
    fewest = min(map(len, places))
    if fewest < 2:
        return None
    classes = classes_of([read(s) for place in places for s in place], key, fewest)
    if classes is None or len(set(classes.values())) < 2:
        return None
    numbers = [[classes[read(s)] for s in place] for place in places]
    expected = Counter(numbers[0])
    if any(Counter(found) != expected for found in numbers):
        return None
    groups = [
        [
            [s for s, n in zip(p, ns, strict=True) if n == number]
            for p, ns in zip(places, numbers, strict=False)
        ]
        for number in sorted(expected)
    ]
    if key is KEYS[GRADIENT]:
        # Directions have no order of their own; the order of acquisition is what they had.
        groups.sort(key=lambda group: min(s.keys[GRADIENT + 1 :] for p in group for s in p))
    return groups


def classes_of(values: Sequence[Value], key: Key, most: int) -> dict[Value, int] | None:
    """The class of each distinct value, numbered in their order; None for more than ``most``."""
    classes: dict[Value, int] = {}
    heads: list[Value] = []
    for value in sorted(set(values)):
        # Numbers in order: only the last class can be near. Vectors: any.
        near = heads[-1:] if len(value) < 2 else heads
        number = next((heads.index(h) for h in near if _close(h, value, key)), len(heads))
        if number == len(heads):
            heads.append(value)
            if len(heads) > most:
                return None
        classes[value] = number
    return classes


def _close(a: Value, b: Value, key: Key) -> bool:
    return len(a) == len(b) and all(
        x == y
        if isinstance(x, str) or isinstance(y, str)
        else abs(x - y) <= key.tolerance * max(abs(x), abs(y), key.floor)
        for x, y in zip(a, b, strict=True)
    )


def ranked(places: Places) -> tuple[Key, list[list[Slice]]] | None:
    """Volumes by the order of slices within each place, by a key that orders all places alike."""
    found: list[tuple[Key, list[list[Slice]], bool]] = []
    for key, read in table(places):
        if not key.ranks:
            continue
        rows = [sorted(place, key=read) for place in places]
        values = [[read(s) for s in row] for row in rows]
        if any(v in (MISSING, ()) for row in values for v in row):
            continue
        if any(len(set(row)) < len(row) for row in values):
            continue
        regular = _evenly_timed(values)
        if regular or _volume_by_volume(values) or _place_by_place(values):
            found.append((key, [list(volume) for volume in zip(*rows, strict=True)], regular))
    if not found:
        return None
    key, volumes, regular = found[0]
    if not regular and key is not KEYS[ACQUISITION] and len(found) > 1 and volumes != found[1][1]:
        return None  # two orders that contradict each other
    return key, volumes


def _volume_by_volume(values: list[list[Value]]) -> bool:
    ranks = list(zip(*values, strict=True))
    return all(max(a) < min(b) for a, b in pairwise(ranks))


def _place_by_place(values: list[list[Value]]) -> bool:
    rows = sorted(values)
    return all(a[-1] < b[0] for a, b in pairwise(rows))


def _evenly_timed(values: list[list[Value]]) -> bool:
    """Whether every place is seen at even intervals, as the phases of a heart are."""
    if len(values[0]) < FEWEST or any(len(v) != 1 for row in values for v in row):
        return False
    gaps = np.diff(np.array(values, dtype=float)[..., 0], axis=1)
    mean = gaps.mean(axis=1, keepdims=True)
    return bool((np.abs(gaps - mean) <= 0.2 * mean).all())
