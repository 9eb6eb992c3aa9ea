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
    """A mean with its interval; NaN where nothing was scored."""

    mean: float
    low: float
    high: float


def standard_error(scores: Array) -> tuple[float, float]:
    """Standard error of the mean over cases and seeds, and its degrees of freedom.

    Seeds and cases are two crossed samples: every seed is scored on every case. With mean squares
    of seeds, cases and rest, the variance of the mean is (MS_seed + MS_case − MS_rest) / (S·N),
    but not less than MS_seed or MS_case alone would give; degrees of freedom are Satterthwaite's
    ("An approximate distribution of estimates of variance components", Biometrics 1946). Of one
    seed, this is the standard error over cases.

    Args:
        scores: ``(seeds, cases)``; only cases with a score of every seed are used.

    Returns:
        Both NaN with fewer than two such cases.
    """
    whole = _whole(scores)
    seeds, cases = whole.shape
    if cases < 2 or seeds < 1:
        return math.nan, math.nan
    by_seed, by_case, mean = (
        whole.mean(1, keepdims=True),
        whole.mean(0, keepdims=True),
        whole.mean(),
    )
    of_cases = seeds * float(((by_case - mean) ** 2).sum()) / (cases - 1)
    if seeds == 1:
        return math.sqrt(of_cases / cases), cases - 1.0
    of_seeds = cases * float(((by_seed - mean) ** 2).sum()) / (seeds - 1)
    freedom = (seeds - 1) * (cases - 1)
    rest = float(((whole - by_seed - by_case + mean) ** 2).sum()) / freedom
    total = max(of_seeds + of_cases - rest, of_seeds, of_cases)
    if total == 0:
        return 0.0, float(freedom)
    shares = of_seeds**2 / (seeds - 1) + of_cases**2 / (cases - 1) + rest**2 / freedom
    return math.sqrt(total / (seeds * cases)), total**2 / shares


def crossed_bootstrap(
    scores: Array, rng: np.random.Generator, draws: int = 5000, level: float = 0.95
) -> Interval:
    """Mean over cases and seeds with a bootstrap interval for new cases and new seeds.

    Cases and seeds are drawn with replacement, independently (the "pigeonhole" bootstrap of Owen,
    Annals of Applied Statistics 2007). A bootstrap of three seeds knows little of how far seeds
    may differ: its percentiles hold the truth in 83 to 86 of 100 studies, not in 95
    (``benchmarks/coverage.py``). So the percentiles' distances from the mean are stretched to the
    width of a t interval of :func:`standard_error`, and keep their skewness (92 of 100). The
    stretching is ours.

    Args:
        scores: ``(seeds, cases)``; NaN where a case has no score.
        rng: Source of randomness.
        draws: Bootstrap samples.
        level: How often the interval should hold the true mean.
    """
    seeds, cases = scores.shape
    present = ~np.isnan(scores)
    if not present.any():
        return Interval(math.nan, math.nan, math.nan)
    values = np.where(present, scores, 0.0)
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws).astype(float)
    by_case = rng.multinomial(cases, np.full(cases, 1 / cases), size=draws).astype(float)
    total = np.einsum("ds,sc,dc->d", by_seed, values, by_case, optimize=True)
    weight = np.einsum("ds,sc,dc->d", by_seed, present.astype(float), by_case, optimize=True)
    means = total[weight > 0] / weight[weight > 0]
    mean = float(np.nanmean(scores))
    tails = ((1 - level) / 2, (1 + level) / 2)
    low, high = mean + _stretch(scores, means, tails[1]) * (np.quantile(means, tails) - mean)
    return Interval(mean, float(low), float(high))


def _stretch(scores: Array, means: Array, tail: float) -> float:
    """Width of the t interval over that of a normal one with the bootstrap's spread."""
    error, freedom = standard_error(scores)
    spread = float(means.std())
    if math.isnan(error) or spread == 0:
        return 1.0
    return error * float(stats.t.ppf(tail, freedom) / stats.norm.ppf(tail)) / spread


def paired_test(difference: Array) -> float:
    """Two-sided p value of a mean difference over cases and seeds: paired t test.

    Cases and seeds both count as drawn (:func:`standard_error`): a difference that all cases show,
    but only with these draws of training cases, is no evidence. A rank test over cases averaged
    over three seeds calls every third study significant where seeds differ and methods do not.

    Args:
        difference: ``(seeds, cases)``, paired by both.

    Returns:
        NaN with fewer than two cases that every seed has scored.
    """
    error, freedom = standard_error(difference)
    if math.isnan(error):
        return math.nan
    mean = _whole(difference).mean()
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / error, freedom))


def _whole(scores: Array) -> Array:
    """Cases that every seed has scored."""
    return scores[:, ~np.isnan(scores).any(axis=0)]


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
