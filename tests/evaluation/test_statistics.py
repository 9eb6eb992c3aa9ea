"""Statistics against scipy, closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from situs.evaluation.statistics import (
    crossed_bootstrap,
    holm,
    labels_for,
    paired_test,
    standard_error,
)


def test_one_seed_gives_scipys_bootstrap_as_wide_as_students_interval():
    scores = np.random.default_rng(0).beta(8, 2, size=(1, 80))
    ours = crossed_bootstrap(scores, np.random.default_rng(1), draws=20_000)
    theirs = stats.bootstrap(
        (scores[0],), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.mean == pytest.approx(scores.mean())
    stretched = np.sqrt(80 / 79) * stats.t.ppf(0.975, 79) / stats.norm.ppf(0.975)
    expected = scores.mean() + stretched * (np.array([theirs.low, theirs.high]) - scores.mean())
    assert (ours.low, ours.high) == pytest.approx(tuple(expected), abs=2e-3)


def test_interval_has_the_width_of_both_sources_of_variation():
    # Additive seed and case effects: var(mean) = s²/S + c²/N in closed form.
    rng = np.random.default_rng(0)
    seed, case = rng.normal(0, 0.02, (6, 1)), rng.normal(0, 0.1, (1, 60))
    interval = crossed_bootstrap(seed + case, np.random.default_rng(1), draws=20_000)
    of_seeds, of_cases = seed.var(ddof=1) / 6, case.var(ddof=1) / 60
    freedom = (of_seeds + of_cases) ** 2 / (of_seeds**2 / 5 + of_cases**2 / 59)
    error = np.sqrt(of_seeds + of_cases)
    assert standard_error(seed + case) == pytest.approx((error, freedom))
    half = (interval.high - interval.low) / 2
    assert half == pytest.approx(error * stats.t.ppf(0.975, freedom), rel=0.04)


@pytest.mark.parametrize("spread", [(1.5, 3, 3), (3, 0.5, 0.5), (0, 3, 3)])
def test_three_seeds_mislead_in_no_more_than_about_one_study_of_twenty(spread):
    # No difference between methods; draws of training cases (seeds) and cases differ.
    rng = np.random.default_rng(0)
    of_seeds, of_cases, of_both = spread
    wrong = 0
    for _ in range(1000):
        scores = rng.normal(0, of_seeds, (3, 1)) + rng.normal(0, of_cases, (1, 60))
        wrong += paired_test(scores + rng.normal(0, of_both, (3, 60))) < 0.05
    assert wrong < 90  # Wilcoxon's test on means over seeds: 325 of the first kind


def test_an_interval_and_its_test_tell_the_same():
    rng = np.random.default_rng(3)
    for shift in (0.0, 0.4, 1.0):
        scores = shift + rng.normal(0, 0.2, (4, 1)) + rng.normal(0, 1, (4, 50))
        interval = crossed_bootstrap(scores, np.random.default_rng(0))
        assert (interval.low > 0 or interval.high < 0) == (paired_test(scores) < 0.05)


def test_missing_scores_are_left_out():
    scores = np.random.default_rng(0).beta(8, 2, size=(3, 40))
    gap = np.full((3, 1), np.nan)
    interval = crossed_bootstrap(np.hstack([scores, gap]), np.random.default_rng(1), draws=20_000)
    assert interval.mean == pytest.approx(scores.mean())
    assert standard_error(np.hstack([scores, gap])) == standard_error(scores)
    whole = crossed_bootstrap(scores, np.random.default_rng(1), draws=20_000)
    assert (interval.low, interval.high) == pytest.approx((whole.low, whole.high), abs=5e-3)


def test_where_nothing_is_scored_nothing_is_said():
    interval = crossed_bootstrap(np.full((2, 3), np.nan), np.random.default_rng(0))
    assert np.isnan([interval.mean, interval.low, interval.high]).all()
    assert np.isnan(paired_test(np.full((2, 3), np.nan)))


def test_paired_test_of_one_seed_is_students():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.05, 0.1, (1, 40)), rng.normal(0, 0.1, (1, 40))
    expected = stats.ttest_rel(first[0], second[0]).pvalue
    assert paired_test(first - second) == pytest.approx(expected)
    assert paired_test(second - first) == pytest.approx(expected)
    assert paired_test(first - first) == 1


def test_holm_known_example_and_missing_tests():
    # Sorted p·(m − i + 1): 0.005·4, 0.01·3, 0.03·2, 0.04·1, then the running maximum.
    p = [0.01, 0.04, 0.03, 0.005]
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with_gap = holm([0.01, np.nan, 0.04, 0.03, 0.005])
    assert np.isnan(with_gap[1])
    assert with_gap[:1] + with_gap[2:] == pytest.approx(holm(p))


@settings(deadline=None, max_examples=50)
@given(p=st.lists(st.floats(1e-6, 1), min_size=1, max_size=12))
def test_holm_lies_between_no_correction_and_bonferroni_and_keeps_order(p):
    adjusted = holm(p)
    for raw, value in zip(p, adjusted, strict=True):
        assert raw - 1e-12 <= value <= min(1, raw * len(p)) + 1e-12
    assert (np.diff(np.asarray(adjusted)[np.argsort(p, kind="stable")]) >= -1e-12).all()
    # Rejections agree with the step-down procedure carried out literally.
    rejected = 0
    for i, raw in enumerate(sorted(p)):
        if raw > 0.05 / (len(p) - i):
            break
        rejected += 1
    assert sum(a <= 0.05 for a in adjusted) == rejected


def test_labels_needed_for_equal_score():
    counts, scores = [4, 10, 40], [0.70, 0.78, 0.84]
    assert labels_for(0.78, counts, scores) == (pytest.approx(10), "=")
    middle, how = labels_for(0.81, counts, scores)
    assert (middle, how) == (pytest.approx(20), "=")
    assert labels_for(0.90, counts, scores) == (40, "≥")
    assert labels_for(0.60, counts, scores) == (4, "≤")
    dip, _ = labels_for(0.75, [4, 10, 40], [0.70, 0.65, 0.80])
    assert 10 < dip < 40
