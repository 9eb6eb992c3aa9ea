"""The statistics of a study: pure functions of arrays of scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean with its percentile interval."""

    mean: float
    low: float
    high: float


def crossed_bootstrap(
    scores: Array, rng: np.random.Generator, draws: int = 5000, level: float = 0.95
) -> Interval:
    """Mean over cases and seeds with a percentile bootstrap interval.

    Cases and seeds are two crossed samples: every seed is scored on every case. Both are drawn
    with replacement, independently (the "pigeonhole" bootstrap of Owen, "The pigeonhole
    bootstrap", Annals of Applied Statistics 2007), so that the interval holds for new cases and
    new seeds; it errs on the wide side.

    Args:
        scores: ``(seeds, cases)``; NaN where a case has no score.
        rng: Source of randomness.
        draws: Bootstrap samples.
        level: Share of the bootstrap means inside the interval.
    """
    seeds, cases = scores.shape
    present = ~np.isnan(scores)
    values = np.where(present, scores, 0.0)
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws).astype(float)
    by_case = rng.multinomial(cases, np.full(cases, 1 / cases), size=draws).astype(float)
    total = np.einsum("ds,sc,dc->d", by_seed, values, by_case, optimize=True)
    weight = np.einsum("ds,sc,dc->d", by_seed, present.astype(float), by_case, optimize=True)
    means = total[weight > 0] / weight[weight > 0]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.nanmean(scores)), float(low), float(high))


def paired_test(first: Array, second: Array) -> float:
    """Two-sided Wilcoxon signed-rank p value of ``first`` against ``second``.

    Cases are the units: scores are averaged over seeds first, because seeds of one case are not
    independent of each other.

    Args:
        first: ``(seeds, cases)``.
        second: ``(seeds, cases)``, the same cases in the same order; the seeds may differ.
    """
    difference = np.nanmean(first, axis=0) - np.nanmean(second, axis=0)
    difference = difference[~np.isnan(difference)]
    if not difference.any():
        return 1.0
    return float(stats.wilcoxon(difference).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: p values that hold for the whole family of tests.

    The i-th smallest of m is multiplied by m − i + 1 and made monotone (Holm, "A simple
    sequentially rejective multiple test procedure", 1979). NaN (no test) counts for nothing.
    """
    p = np.asarray(p_values, dtype=float)
    order = [int(i) for i in np.argsort(p) if not math.isnan(p[i])]
    adjusted = np.full(len(p), np.nan)
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p[i]))
        adjusted[i] = running
    return [float(a) for a in adjusted]


def labels_for(score: float, counts: Sequence[int], scores: Sequence[float]) -> tuple[float, str]:
    """How many labels a reference needs for ``score``, from its own label-efficiency curve.

    The curve is interpolated linearly in the logarithm of the label count, after being made
    monotone (a curve that falls with more labels is noise). Nothing is extrapolated.

    Args:
        score: To be reached.
        counts: Label counts of the reference, increasing.
        scores: Its mean score at each.

    Returns:
        The count and how to read it: ``"="``, ``"≥"`` when even the largest count falls short,
        ``"≤"`` when the smallest already reaches it.
    """
    x = np.log(np.asarray(counts, dtype=float))
    y = np.maximum.accumulate(np.asarray(scores, dtype=float))
    if score > y[-1]:
        return float(counts[-1]), "≥"
    if score <= y[0]:
        return float(counts[0]), "≤"
    upper = int(np.searchsorted(y, score))
    share = (score - y[upper - 1]) / (y[upper] - y[upper - 1])
    return float(np.exp(x[upper - 1] + share * (x[upper] - x[upper - 1]))), "="
