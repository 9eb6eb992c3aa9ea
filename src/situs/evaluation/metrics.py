"""Scores of predictions against truth, in millimetres, honest about what is not there.

Dice, the 95th percentile Hausdorff distance and normalised surface Dice are MONAI's (the tests
hold them against it), from surface voxels alone; scikit-learn computes the classification scores.
This module decides what they mean for classes that a case does not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from situs.evaluation.surfaces import surface_distances

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
    voxel_ml = float(np.prod(spacing)) / 1000
    scores = []
    for label in sorted(classes):
        if label == 0:
            continue
        found, wanted = predicted == label, true == label
        sizes = int(found.sum()), int(wanted.sum())
        presence = _presence(sizes[0] > 0, sizes[1] > 0)
        dice = surface = np.nan if presence == "absent" else 0.0
        hd95 = np.nan
        if presence == "both":
            dice = 2 * int((found & wanted).sum()) / sum(sizes)
            distances = surface_distances(found, wanted, spacing)
            hd95, surface = distances.hausdorff_mm(95), distances.within(tolerance_mm)
        scores.append(
            ClassScore(
                case=case,
                label=label,
                name=classes[label],
                presence=presence,
                dice=dice,
                hd95_mm=hd95,
                surface_dice=surface,
                predicted_ml=sizes[0] * voxel_ml,
                true_ml=sizes[1] * voxel_ml,
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

    Each bin weighs as many predictions as it holds; definition and equal widths are those of
    Guo et al. 2017 (arXiv 1706.04599), whose experiments have 15.

    Args:
        confidence: ``(N,)``, probability of the predicted class.
        right: ``(N,)``, whether that class is the true one.
        bins: Of equal width between 0 and 1.
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
