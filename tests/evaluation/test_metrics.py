from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage
from sklearn.metrics import balanced_accuracy_score

from situs.evaluation.metrics import (
    calibration_error,
    score_classification,
    score_segmentation,
    summarise_segmentation,
)
from situs.evaluation.surfaces import surface_distances

CLASSES = {0: "background", 1: "one", 4: "four"}


def surface(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)


def distances(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """From every surface voxel of ``a`` to the surface of ``b``, in mm."""
    return ndimage.distance_transform_edt(~surface(b), sampling=spacing)[surface(a)]


def balls(seed: int, shift: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(18)] * 3, indexing="ij"), -1)
    true = np.zeros((18, 18, 18), np.int16)
    predicted = np.zeros_like(true)
    for value, centre in ((1, (5, 6, 7)), (4, (12, 11, 9))):
        radius = rng.uniform(3, 4.5)
        true[((grid - centre) ** 2).sum(-1) < radius**2] = value
        moved = ((grid - centre - shift) ** 2).sum(-1) < (radius * rng.uniform(0.8, 1.1)) ** 2
        predicted[moved] = value
    return predicted, true


@settings(deadline=None, max_examples=8)
@given(
    seed=st.integers(0, 99),
    shift=st.tuples(*[st.integers(-2, 2)] * 3),
    spacing=st.tuples(*[st.sampled_from([0.6, 1.0, 2.5])] * 3),
    tolerance=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_scores_agree_with_distance_transforms(seed, shift, spacing, tolerance) -> None:
    predicted, true = balls(seed, shift)
    for score in score_segmentation("case", predicted, true, CLASSES, spacing, tolerance):
        p, t = predicted == score.label, true == score.label
        assert score.dice == pytest.approx(2 * (p & t).sum() / (p.sum() + t.sum()))
        there, back = distances(p, t, spacing), distances(t, p, spacing)
        hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
        assert score.hd95_mm == pytest.approx(hd95, abs=1e-4)
        near = (there <= tolerance).sum() + (back <= tolerance).sum()
        assert score.surface_dice == pytest.approx(near / (len(there) + len(back)))
        assert score.true_ml == pytest.approx(t.sum() * np.prod(spacing) / 1000)
        assert score.presence == "both"


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 2.0, 3.1)])
def test_surface_distances_are_monais(spacing) -> None:
    predicted, true = (mask == 1 for mask in balls(5, (1, 0, -1)))
    true[:3, 4:9, 5] = True  # reaches the border of the volume
    found = surface_distances(predicted, true, spacing)
    pair = [torch.from_numpy(mask)[None, None] for mask in (predicted, true)]
    common = {"include_background": True, "spacing": list(spacing)}
    hd95 = compute_hausdorff_distance(*pair, percentile=95, **common)
    assert found.hausdorff_mm(95) == pytest.approx(float(hd95), rel=1e-6)
    for limit in (0.5, 1.0, 2.5):
        share = compute_surface_dice(*pair, class_thresholds=[limit], **common)
        assert found.within(limit) == pytest.approx(float(share), rel=1e-6)
    with pytest.raises(ValueError, match="empty surface"):
        surface_distances(predicted, np.zeros_like(true), spacing)


def test_empty_classes_are_named_for_what_they_are() -> None:
    ball = np.zeros((8, 8, 8), np.int16)
    ball[2:5, 2:5, 2:5] = 1
    nothing = np.zeros_like(ball)
    one, four = score_segmentation("absent", nothing, nothing, CLASSES, (1, 1, 1))
    assert (one.presence, four.presence) == ("absent", "absent")
    assert np.isnan([one.dice, one.hd95_mm, one.surface_dice]).all()
    (missed, _) = score_segmentation("missed", nothing, ball, CLASSES, (1, 1, 1))
    assert (missed.presence, missed.dice, missed.surface_dice) == ("missed", 0, 0)
    assert np.isnan(missed.hd95_mm)
    (invented, _) = score_segmentation("invented", ball, nothing, CLASSES, (1, 1, 1))
    assert (invented.presence, invented.dice) == ("invented", 0)
    (perfect, _) = score_segmentation("perfect", ball, ball, CLASSES, (1, 1, 1))
    assert (perfect.dice, perfect.hd95_mm, perfect.surface_dice) == (1, 0, 1)

    table = summarise_segmentation([one, four, missed, invented, perfect])
    # The absent case is no success; the missed and the invented one are failures.
    assert table["one"]["dice"] == pytest.approx(1 / 3)
    assert (table["one"]["cases"], table["one"]["hd95_undefined"]) == (3, 2)
    assert table["one"]["hd95_mm"] == 0
    assert np.isnan(table["four"]["dice"])
    assert table["mean"]["dice"] == pytest.approx(1 / 3)


def test_classification_scores() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 60)
    logits = rng.normal(0, 1, (60, 3)) + 1.5 * np.eye(3)[true]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    table = score_classification(p, true, ["a", "b", "c"])
    expected = balanced_accuracy_score(true, p.argmax(1))
    assert table["mean"]["balanced_accuracy"] == pytest.approx(expected)
    assert table["mean"]["chance"] == pytest.approx(1 / 3)
    for k, name in enumerate("abc"):
        inside, outside = p[true == k, k], p[true != k, k]
        # The AUC is the chance that a positive ranks above a negative.
        pairs = (inside[:, None] > outside).mean()
        assert table[name]["auc"] == pytest.approx(pairs)
    several = np.eye(3, dtype=int)[true]
    several[:, 2] = 0
    table = score_classification(p, several, ["a", "b", "c"])
    assert np.isnan(table["c"]["auc"])
    assert table["mean"]["auc"] == pytest.approx((table["a"]["auc"] + table["b"]["auc"]) / 2)


def test_calibration_error_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    right = np.array([True, True, True, False, True, False])
    # Bins: four at 0.95 with accuracy 0.75, two at 0.55 with accuracy 0.5.
    expected = 4 / 6 * abs(0.75 - 0.95) + 2 / 6 * abs(0.5 - 0.55)
    assert calibration_error(confidence, right) == pytest.approx(expected)
    assert calibration_error(np.ones(5), np.ones(5, dtype=bool)) == 0
