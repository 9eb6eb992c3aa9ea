"""One number that says how well a sub-task is solved, beside what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Score:
    """One number that says how well a sub-task is solved.

    Attributes:
        name: Stable key, the same in the progress bar, metrics file and report, for instance
            ``"gap_mae"``.
        value: Mean over the observed samples.
        unit: ``"mm"``, ``"°"``, ``"%"`` (0 to 100) or ``""``.
        better: Which direction is better.
        chance: The value that guessing would give, where it is defined.
        constant: The value of the best constant predictor (mean, centre), where it is defined.
        label: Words for a reader, for instance ``"gap error"``.
        samples: One value a sample, aligned with :attr:`Observation.scans`; empty where the
            score is not a mean over samples (R², say).
        by_construction: The network cannot but reach this value (a closed round trip of
            differences, say): shown, but not counted as learned.
        collapsed: The value that features have which all point the same way. Such a score
            watches over the network's health: shown, but not counted as learned.
    """

    name: str
    value: float
    unit: str
    better: Literal["lower", "higher"]
    chance: float | None = None
    constant: float | None = None
    label: str = ""
    samples: tuple[float, ...] = ()
    by_construction: bool = False
    collapsed: float | None = None
