"""Scores split by scan, modality and spacing: an average hides where a network fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from situs import text
from situs.observation import Observation, Score, verdicts
from situs.scans.aliases import Names


@dataclass(frozen=True)
class Breakdown:
    """Means of several scores over groups of samples.

    Attributes:
        by: ``"scan"``, ``"modality"`` or ``"spacing"``.
        headings: Labels of the scores.
        rows: Group name, number of samples, and one text a score.
    """

    by: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[str, ...]], ...]


def breakdowns(observation: Observation, scores: Sequence[Score], names: Names) -> list[Breakdown]:
    """A table for every grouping that has at least two groups.

    Args:
        observation: Names the scan, modality and spacing of each sample.
        scores: Of one section; those without one value a sample are left out.
        names: What scans and cases are called.
    """
    count = len(observation.scans)
    kept = [s for s in scores if count and len(s.samples) == count]
    if not kept:
        return []
    groups: dict[str, Sequence[str]] = {
        "modality": observation.modalities,
        "spacing": [_spacing(s) for s in observation.spacings],
        "scan": [names.of(key) for key in observation.scans],
    }
    return [
        _breakdown(by, keys, kept)
        for by, keys in groups.items()
        if len(keys) == count and len(set(keys)) > 1
    ]


def _breakdown(by: str, keys: Sequence[str], scores: Sequence[Score]) -> Breakdown:
    values = {score.name: np.asarray(score.samples, dtype=float) for score in scores}
    members = np.asarray(keys)
    rows = []
    for key in sorted(
        dict.fromkeys(keys), key=_worst_first(members, values[scores[0].name], scores)
    ):
        inside = members == key
        cells = tuple(_mean(values[s.name][inside], s.unit) for s in scores)
        rows.append((text.printable(key), int(inside.sum()), cells))
    return Breakdown(by, tuple(verdicts.label(s) for s in scores), tuple(rows))


def _worst_first(
    members: np.ndarray, values: np.ndarray, scores: Sequence[Score]
) -> Callable[[str], float]:
    sign = -1 if scores[0].better == "lower" else 1

    def key(name: str) -> float:
        inside = values[members == name]
        inside = inside[np.isfinite(inside)]
        return sign * float(inside.mean()) if inside.size else np.inf

    return key


def _mean(values: np.ndarray, unit: str) -> str:
    values = values[np.isfinite(values)]
    return text.quantity(float(values.mean()) if values.size else None, unit)


def _spacing(spacing: Sequence[float]) -> str:
    return " × ".join(f"{value:.2g}" for value in spacing) + " mm"
