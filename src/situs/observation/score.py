"""One number that says how well a sub-task is solved, beside what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from situs.text import quantity


@dataclass(frozen=True)
class Reach:
    """Which share of a backbone one loss term trains, in % of the parameters.

    Attributes:
        term: Name of the loss term; ``"total"`` for all of them together.
        encoder: Of the encoder's parameters.
        decoder: Of the decoder's parameters.
    """

    term: str
    encoder: float
    decoder: float


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
        emptied: The value that the network reaches on scans whose voxels all have one value:
            the same sampling, geometry, borders and padding, but no anatomy.
        shuffled: Likewise on scans whose blocks of voxels changed places.
        untrained: The value that a network of fresh weights reaches on the real scans.
        label: Words for a reader, for instance ``"gap error"``.
        samples: One value a sample, aligned with :attr:`Observation.scans`; empty where the
            score is not a mean over samples (R², say).
        groups: Number of the patient behind each of ``samples``: samples of one patient are not
            independent. Empty where unknown.
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
    emptied: float | None = None
    shuffled: float | None = None
    untrained: float | None = None
    groups: tuple[int, ...] = ()

    def __repr__(self) -> str:
        beside = ("chance", "constant", "emptied", "shuffled", "untrained")
        known = {name: getattr(self, name) for name in beside if getattr(self, name) is not None}
        parts = [f"{name} {quantity(value, self.unit)}" for name, value in known.items()]
        value = f"{self.name} {quantity(self.value, self.unit)}"
        return f"Score({', '.join([value, *parts, f'{len(self.samples)} samples'])})"
