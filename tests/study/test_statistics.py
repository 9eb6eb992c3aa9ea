"""Statistics against scipy, closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from situs.study.statistics import crossed_bootstrap, holm, labels_for, paired_test


def test_one_seed_gives_scipys_bootstrap():
    scores = np.random.default_rng(0).beta(8, 2, size=(1, 80))
    ours = crossed_bootstrap(scores, np.random.default_rng(1), draws=20_000)
    theirs = stats.bootstrap(
        (scores[0],), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.mean == pytest.approx(scores.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=2e-3)


def test_interval_has_the_width_of_both_sources_of_variation():
    # Additive seed and case effects: var(mean) = s²/S + c²/N in closed form.
    rng = np.random.default_rng(0)
    seed, case = rng.normal(0, 0.02, (6, 1)), rng.normal(0, 0.1, (1, 60))
    interval = crossed_bootstrap(seed + case, np.random.default_rng(1), draws=20_000)
    expected = np.sqrt(seed.var() / 6 + case.var() / 60)
    assert (interval.high - interval.low) / 2 / 1.96 == pytest.approx(expected, rel=0.04)


def test_missing_scores_are_left_out():
    scores = np.array([[0.5, np.nan, 0.7], [0.5, np.nan, 0.7]])
    interval = crossed_bootstrap(scores, np.random.default_rng(0))
    assert interval.mean == pytest.approx(0.6)
    assert 0.5 <= interval.low <= interval.high <= 0.7


def test_paired_test_is_wilcoxon_on_seed_means():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.05, 0.1, (3, 40)), rng.normal(0, 0.1, (2, 40))
    expected = stats.wilcoxon(first.mean(0), second.mean(0)).pvalue
    assert paired_test(first, second) == pytest.approx(expected)
    assert paired_test(first, first) == 1
    assert paired_test(first, second) == pytest.approx(paired_test(second, first))


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
