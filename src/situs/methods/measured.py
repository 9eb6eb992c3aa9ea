"""What a method measures of held-out samples, before it is compared with anything."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from situs.observation import Score


@dataclass(frozen=True)
class Measured:
    """One quantity of a batch of samples.

    Attributes:
        name: Stable key; see :class:`~situs.observation.Score`.
        values: ``(B, …)``, NaN where there is nothing to say: a sample's value is the mean of
            its finite ones. None for what is no mean over samples, which needs a ``value``.
        unit: ``"mm"``, ``"°"``, ``"%"`` (0 to 100) or ``""``.
        better: Which direction is better.
        label: Words for a reader.
        chance: What guessing gives.
        constant: What the best constant answer gives.
        value: Of all samples; the mean of theirs where None.
        by_construction: Whether the network cannot but reach it.
    """

    name: str
    values: Tensor | npt.ArrayLike | None
    unit: str
    better: Literal["lower", "higher"]
    label: str = ""
    chance: Tensor | float | None = None
    constant: Tensor | float | None = None
    value: Tensor | float | None = None
    by_construction: bool = False

    @property
    def samples(self) -> tuple[float, ...]:
        """One value a sample; NaN for a sample that has none."""
        if self.values is None:
            return ()
        values = np.asarray(_array(self.values), dtype=np.float64)
        return tuple(row_means(values.reshape(len(values), -1)).tolist())

    @property
    def overall(self) -> float:
        """The value of all samples together."""
        return finite_mean(self.samples) if self.value is None else float(self.value)

    def score(self, groups: tuple[int, ...] = (), **references: float | None) -> Score:
        """The score, with what was found by the controls under the names of its fields."""
        known = {"chance": self.chance, "constant": self.constant, **references}
        return Score(
            name=self.name,
            value=self.overall,
            unit=self.unit,
            better=self.better,
            label=self.label,
            samples=self.samples,
            groups=groups if self.values is not None else (),
            by_construction=self.by_construction,
            **{k: None if v is None or math.isnan(v) else float(v) for k, v in known.items()},
        )


def row_means(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means over the finite values of each row of ``(N, K)``; NaN where there is none."""
    finite = np.isfinite(values)
    count = finite.sum(1)
    total = np.where(finite, values, 0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def finite_mean(values: npt.ArrayLike) -> float:
    """Mean of the finite values; NaN where there is none."""
    return float(row_means(np.asarray(values, np.float64).reshape(1, -1))[0])


def mean_pairwise(values: Tensor) -> float:
    """E‖a − b‖ over different rows of ``values (N, K)``: the error of guessing another row."""
    count = len(values)
    return float(torch.cdist(values, values).sum() / max(1, count * (count - 1)))


def _array(values: Any) -> Any:
    return values.detach().float().cpu().numpy() if isinstance(values, Tensor) else values
