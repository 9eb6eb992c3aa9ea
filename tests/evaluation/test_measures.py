"""What is compared: means over cases that are the metrics of scikit-learn, in either direction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from situs.evaluation.measures import METRICS, case_scores, mean_score
from situs.report.study.wording import finding
from situs.studies.config import StudyConfig

NAMES = ["a thing", "b", "c"]


def rows(true: np.ndarray, probability: np.ndarray, said: np.ndarray) -> list[dict[str, str]]:
    return [
        {
            "case": f"case{i}",
            "true": "; ".join(n for n, on in zip(NAMES, true[i], strict=True) if on),
            "predicted": "; ".join(n for n, on in zip(NAMES, said[i], strict=True) if on),
            **{f"p({n})": str(p) for n, p in zip(NAMES, probability[i].tolist(), strict=True)},
        }
        for i in range(len(true))
    ]


def mean(written: list[dict[str, str]], metric: str, multi_label: bool = False) -> float:
    return mean_score(case_scores(written, METRICS[metric], multi_label))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), coarse=st.booleans())
def test_means_over_cases_are_scikit_learns_metrics(seed, coarse):
    rng = np.random.default_rng(seed)
    classes = np.concatenate([np.arange(3), rng.integers(0, 3, 20)])
    probability = rng.dirichlet(np.ones(3), len(classes))
    if coarse:  # ties
        probability = probability.round(1)
        probability[:, 2] = 1 - probability[:, :2].sum(1)
    true, decided = np.eye(3, dtype=bool)[classes], probability.argmax(1)
    written = rows(true, probability, np.eye(3, dtype=bool)[decided])
    assert mean(written, "correct") == pytest.approx(accuracy_score(classes, decided))
    expected = balanced_accuracy_score(classes, decided)
    assert mean(written, "balanced_accuracy") == pytest.approx(expected)
    areas = [roc_auc_score(true[:, k], probability[:, k]) for k in range(3)]
    assert mean(written, "auc") == pytest.approx(np.mean(areas))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_of_several_labels_a_scan_too(seed):
    rng = np.random.default_rng(seed)
    true = np.concatenate([[[1, 1, 0], [0, 0, 1]], rng.integers(0, 2, (20, 3))]).astype(bool)
    probability = rng.random(true.shape)
    said = probability >= 0.5
    written = rows(true, probability, said)
    areas = [roc_auc_score(true[:, k], probability[:, k]) for k in range(3)]
    assert mean(written, "auc", True) == pytest.approx(np.mean(areas))
    both = [balanced_accuracy_score(true[:, k], said[:, k]) for k in range(3)]
    assert mean(written, "balanced_accuracy", True) == pytest.approx(np.mean(both))
    assert mean(written, "correct", True) == pytest.approx((true == said).all(1).mean())


def test_a_segmentation_counts_the_classes_that_a_case_has():
    written = [
        {"case": "a", "presence": "both", "dice": "0.5"},
        {"case": "a", "presence": "both", "dice": "0.7"},
        {"case": "b", "presence": "absent", "dice": "nan"},
        {"case": "b", "presence": "missed", "dice": "0.0"},
        {"case": "c", "presence": "absent", "dice": "nan"},
    ]
    scores = case_scores(written, METRICS["dice"])
    assert (scores["a"], scores["b"]) == (pytest.approx(0.6), 0)
    assert np.isnan(scores["c"])


def test_a_network_that_misses_a_class_has_no_distance_there_and_is_tuned_by_dice():
    written = [
        {"case": "a", "presence": "both", "hd95_mm": "2.5"},
        {"case": "a", "presence": "missed", "hd95_mm": "nan"},
        {"case": "b", "presence": "both", "hd95_mm": "2.0"},
        {"case": "b", "presence": "absent", "hd95_mm": "nan"},
    ]
    scores = case_scores(written, METRICS["hd95_mm"])
    assert np.isnan(scores["a"])
    assert scores["b"] == 2
    assert METRICS["hd95_mm"].for_tuning is METRICS["dice"]


def test_a_scan_that_nothing_is_said_of_does_not_change_what_balanced_accuracy_means():
    true = np.eye(3, dtype=bool)[[0, 1, 2, 0]]
    said = true.copy()
    said[3] = False
    written = rows(true, np.full((4, 3), 0.3), said)
    expected = np.mean([0.5, 1, 1])
    assert mean(written, "balanced_accuracy") == pytest.approx(expected)


def study(metric: str) -> StudyConfig:
    return StudyConfig(data="data", out="out", metric=metric, arms=["none"], labels=[4])


def test_a_smaller_distance_is_told_as_a_gain_in_millimetres():
    row = {"labels": 4, "arm": "mae", "mean": 4.5, "gain": 1.0, "gain_low": 0.5, "gain_high": 1.5}
    row |= {"against": "none", "against_scratch": True, "p_holm": 0.01}
    row |= {"scratch_labels": 10.0, "scratch_labels_is": "="}
    sentence = finding(row, study("hd95_mm"))
    assert "reaches HD95 (mm) 4.500 against 5.500 from scratch: +1.0 mm" in sentence
    assert "From scratch the same takes about 10 labels" in sentence


def test_what_may_be_chance_is_told_so():
    row = {"labels": 4, "arm": "mae", "mean": 0.8, "gain": 0.01, "gain_low": -0.01}
    row |= {"gain_high": 0.03, "against": "none", "against_scratch": True, "p_holm": 0.001}
    row |= {"scratch_labels": float("nan"), "scratch_labels_is": ""}
    assert "chance" not in finding(row, study("dice"))
    assert "may be chance" in finding(row | {"p_holm": 0.2}, study("dice"))


def test_one_label_is_one_label_and_a_little_more_is_not_the_same():
    row = {"labels": 1, "arm": "mae", "mean": 0.73, "gain": 0.03, "gain_low": 0.01}
    row |= {"gain_high": 0.05, "against": "none", "against_scratch": True, "p_holm": 0.001}
    row |= {"scratch_labels": 1.24, "scratch_labels_is": "="}
    sentence = finding(row, study("dice"))
    assert sentence.startswith("With 1 label the best")
    assert sentence.endswith("takes about 1.2 labels.")
