"""Scores of predictions against truth, in millimetres, honest about what is not there.

MONAI computes Dice, the 95th percentile Hausdorff distance and normalised surface Dice;
scikit-learn the classification scores. This module decides what they mean for classes that a
case does not have.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

Presence = Literal["both", "absent", "missed", "invented"]
Summary = dict[str, dict[str, float]]
SEGMENTATION_SCORES = ("dice", "hd95_mm", "surface_dice")


@dataclass(frozen=True)
class ClassScore:
    """One class of one case.

    Attributes:
        case: Name of the case.
        label: Value in the label volume.
        name: Of the class.
        presence: Where the class is: in ``"both"``, ``"absent"`` from both, ``"missed"`` by the
            prediction, or ``"invented"`` by it.
        dice: 0 to 1; 0 where missed or invented, NaN where absent (not a success of the model:
            left out of every mean).
        hd95_mm: NaN unless in both: there is no distance to an empty surface.
        surface_dice: Share of both surfaces' voxels within the tolerance of the other, 0 to 1;
            0 and NaN as for ``dice``.
        predicted_ml: Volume.
        true_ml: Volume.
    """

    case: str
    label: int
    name: str
    presence: Presence
    dice: float
    hd95_mm: float
    surface_dice: float
    predicted_ml: float
    true_ml: float


def score_segmentation(
    case: str,
    predicted: npt.NDArray[np.integer[Any]],
    true: npt.NDArray[np.integer[Any]],
    classes: Mapping[int, str],
    spacing: Sequence[float],
    tolerance_mm: float = 1.0,
) -> list[ClassScore]:
    """Scores of every foreground class of one case.

    Args:
        case: Name for the table.
        predicted: ``(X, Y, Z)`` labels.
        true: The same shape.
        classes: Label value → name; 0 is background and is not scored.
        spacing: Millimetres between voxel centres along each axis.
        tolerance_mm: Distance at which two surfaces still count as the same.
    """
    labels = [label for label in sorted(classes) if label != 0]
    masks = [
        torch.from_numpy(np.stack([volume == label for label in labels]))[None]
        for volume in (predicted, true)
    ]
    in_predicted, in_true = (m.flatten(2).any(2)[0].tolist() for m in masks)
    dice = compute_dice(*masks, include_background=True)[0]
    both = [i for i in range(len(labels)) if in_predicted[i] and in_true[i]]
    hd95 = torch.full((len(labels),), torch.nan)
    surface = torch.zeros(len(labels))
    if both:
        pair = [m[:, both] for m in masks]
        common = {"include_background": True, "spacing": list(spacing)}
        limits = [tolerance_mm] * len(both)
        with warnings.catch_warnings():
            # MONAI warns that it calls itself with an argument it has deprecated.
            warnings.filterwarnings("ignore", message=".*always_return_as_numpy.*")
            hd95[both] = compute_hausdorff_distance(*pair, percentile=95, **common)[0]
            surface[both] = compute_surface_dice(*pair, class_thresholds=limits, **common)[0]
    voxel_ml = float(np.prod(spacing)) / 1000
    volumes = [(m.flatten(2).sum(2)[0] * voxel_ml).tolist() for m in masks]
    scores = []
    for i, label in enumerate(labels):
        presence = _presence(in_predicted[i], in_true[i])
        absent = presence == "absent"
        scores.append(
            ClassScore(
                case=case,
                label=label,
                name=classes[label],
                presence=presence,
                dice=np.nan if absent else float(dice[i]) if presence == "both" else 0.0,
                hd95_mm=float(hd95[i]),
                surface_dice=np.nan if absent else float(surface[i]),
                predicted_ml=volumes[0][i],
                true_ml=volumes[1][i],
            )
        )
    return scores


def summarise_segmentation(scores: Sequence[ClassScore]) -> Summary:
    """Means over cases, a class at a time, and the mean over classes.

    Returns:
        Class name → ``dice``, ``hd95_mm``, ``surface_dice`` (means of what is defined),
        ``cases`` (in which the class is or should be) and ``hd95_undefined`` (missed or
        invented). The entry ``"mean"`` averages the classes and sums the counts.
    """
    table: Summary = {}
    for name in dict.fromkeys(s.name for s in scores):
        rows = [s for s in scores if s.name == name and s.presence != "absent"]
        table[name] = {key: _mean([getattr(s, key) for s in rows]) for key in SEGMENTATION_SCORES}
        table[name]["cases"] = len(rows)
        table[name]["hd95_undefined"] = sum(s.presence != "both" for s in rows)
    classes = list(table.values())
    table["mean"] = {key: _mean([c[key] for c in classes]) for key in SEGMENTATION_SCORES}
    for key in ("cases", "hd95_undefined"):
        table["mean"][key] = sum(c[key] for c in classes)
    return table


def score_classification(
    probabilities: npt.NDArray[np.floating[Any]],
    true: npt.NDArray[np.integer[Any]],
    classes: Sequence[str],
) -> Summary:
    """AUC, balanced accuracy and expected calibration error.

    Args:
        probabilities: ``(N, K)``; rows sum to 1 unless several labels a scan are possible.
        true: ``(N,)`` class indices, or ``(N, K)`` of 0 and 1 for several labels a scan.
        classes: K names.

    Returns:
        Class name → ``auc`` (one against the rest) and ``cases`` (positives); the entry
        ``"mean"`` adds ``balanced_accuracy``, ``calibration_error`` and ``chance`` (the balanced
        accuracy of guessing). An AUC without both positives and negatives is NaN.
    """
    multi_label = true.ndim == 2
    onehot = true if multi_label else np.eye(len(classes), dtype=int)[true]
    table: Summary = {}
    for k, name in enumerate(classes):
        positives = int(onehot[:, k].sum())
        defined = 0 < positives < len(onehot)
        auc = roc_auc_score(onehot[:, k], probabilities[:, k]) if defined else np.nan
        table[name] = {"auc": float(auc), "cases": positives}
    mean = {"auc": _mean([row["auc"] for row in table.values()]), "cases": len(onehot)}
    if multi_label:
        decided = (probabilities >= 0.5).astype(int)
        accuracies = [
            balanced_accuracy_score(onehot[:, k], decided[:, k])
            for k in range(len(classes))
            if 0 < onehot[:, k].sum() < len(onehot)
        ]
        mean["balanced_accuracy"] = _mean(accuracies)
        mean["calibration_error"] = calibration_error(
            np.maximum(probabilities, 1 - probabilities).ravel(), (decided == onehot).ravel()
        )
        mean["chance"] = 0.5
    else:
        decided = probabilities.argmax(1)
        # Classes without a case have no recall; averaging over those present is what
        # scikit-learn does, too, but it warns about predictions outside them.
        recalls = [float((decided[true == k] == k).mean()) for k in np.unique(true)]
        mean["balanced_accuracy"] = _mean(recalls)
        mean["calibration_error"] = calibration_error(probabilities.max(1), decided == true)
        mean["chance"] = 1 / max(1, len(recalls))
    return {**table, "mean": mean}


def calibration_error(
    confidence: npt.NDArray[np.floating[Any]], right: npt.NDArray[np.bool_], bins: int = 10
) -> float:
    """Expected calibration error: mean |accuracy − confidence| over equal-width bins.

    Each bin weighs as many predictions as it holds (Guo et al. 2017, arXiv 1706.04599).
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.bincount(place, weights=right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def _presence(predicted: bool, true: bool) -> Presence:
    if predicted and true:
        return "both"
    if predicted:
        return "invented"
    return "missed" if true else "absent"


def _mean(values: Sequence[float]) -> float:
    defined = [v for v in values if not np.isnan(v)]
    return float(np.mean(defined)) if defined else float("nan")
