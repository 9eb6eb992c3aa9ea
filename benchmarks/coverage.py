"""How often a study's interval holds the truth, beside a plain bootstrap and a rank test.

    python -m benchmarks.coverage

Methods do not differ here; cases, draws of labelled cases (seeds) and both together do, by normal
noise of the standard deviations given. 60 cases, 1000 studies each.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from situs.evaluation.statistics import crossed_bootstrap, paired_test

_CASES, _STUDIES, _DRAWS = 60, 1000, 1000
_SETTINGS = ((3, 1.5, 3.0, 3.0), (3, 3.0, 5.0, 5.0), (5, 1.5, 3.0, 3.0), (10, 1.5, 3.0, 3.0))


def plain_interval(scores: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Percentiles of a bootstrap over seeds and cases."""
    seeds, cases = scores.shape
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=_DRAWS) / seeds
    by_case = rng.multinomial(cases, np.full(cases, 1 / cases), size=_DRAWS) / cases
    low, high = np.quantile(((by_seed @ scores) * by_case).sum(1), (0.025, 0.975))
    return float(low), float(high)


def main() -> None:
    """Print one line a setting."""
    print("seeds, sd of seeds/cases/both: plain bootstrap, interval of situs | false findings at")
    print("p < 0.05: Wilcoxon over means of seeds, test of situs (all per 100 studies)")
    for seeds, of_seeds, of_cases, of_both in _SETTINGS:
        rng = np.random.default_rng(0)
        counts = np.zeros(4)
        for _ in range(_STUDIES):
            scores = rng.normal(0, of_seeds, (seeds, 1)) + rng.normal(0, of_cases, (1, _CASES))
            scores = scores + rng.normal(0, of_both, scores.shape)
            low, high = plain_interval(scores, np.random.default_rng(0))
            own = crossed_bootstrap(scores, np.random.default_rng(0), _DRAWS)
            counts += (
                low <= 0 <= high,
                own.low <= 0 <= own.high,
                stats.wilcoxon(scores.mean(0)).pvalue < 0.05,
                paired_test(scores) < 0.05,
            )
        plain, held, ranks, test = 100 * counts / _STUDIES
        spread = f"{of_seeds:g}/{of_cases:g}/{of_both:g}"
        print(f"{seeds:2d}, {spread}: {plain:.1f}, {held:.1f} | {ranks:.1f}, {test:.1f}")


if __name__ == "__main__":
    main()
