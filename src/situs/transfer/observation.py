"""What a fine-tuned model does to a typical and to its worst test case, for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from situs.observation import Observation, OverlayPanel, Score, Section, Volume
from situs.text import quantity
from situs.transfer.cases import Cohort, PreparedCase
from situs.transfer.model import Model
from situs.transfer.result import Result
from situs.views.subvolume import crop_affine

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.uint8]
Row = Mapping[str, str]

_MARGIN_MM = 20.0
"""Of anatomy around the labels."""
_LONGEST = 128
"""Voxels; a larger scan is thinned out: this is for looking at."""


def telling_cases(rows: Sequence[Row]) -> dict[str, str]:
    """The two test cases worth a look, the typical one first.

    Args:
        rows: Of ``cases.csv``: one a case and class.

    Returns:
        Case → ``"median"`` or ``"worst"``, by mean Dice over its classes. A single case is
        ``"only"``; none where no case has a defined Dice.
    """
    dice = {case: _mean(rows, case, "dice") for case in dict.fromkeys(r["case"] for r in rows)}
    ranked = sorted((c for c in dice if np.isfinite(dice[c])), key=lambda case: dice[case])
    if len(ranked) < 2:
        return dict.fromkeys(ranked, "only")
    return {ranked[len(ranked) // 2]: "median", ranked[0]: "worst"}


def observe_segmentation(model: Model, cohort: Cohort, result: Result) -> Observation:
    """Truth and prediction over the scan in the telling test cases.

    Args:
        model: That was tested.
        cohort: Holds the test cases.
        result: Whose ``cases.csv`` is written.
    """
    rows = result.cases()
    cases = tuple(dict.fromkeys(row["case"] for row in rows))
    panels = tuple(
        _panel(model, cohort[case], [r for r in rows if r["case"] == case], why, len(cases))
        for case, why in telling_cases(rows).items()
    )
    section = Section(
        "Segmentation",
        "Where does the segmentation agree with the truth, and where not?",
        (
            _score(rows, cases, "dice", "Dice", "", "higher"),
            _score(rows, cases, "hd95_mm", "HD95", "mm", "lower"),
        ),
        panels,
    )
    return Observation("segmentation", result.best_step or 0, (section,), scans=cases)


def _score(
    rows: Sequence[Row],
    cases: Sequence[str],
    key: str,
    label: str,
    unit: str,
    better: Literal["lower", "higher"],
) -> Score:
    samples = tuple(_mean(rows, case, key) for case in cases)
    return Score(key, _finite_mean(samples), unit, better, label=label, samples=samples)


def _mean(rows: Sequence[Row], case: str, key: str) -> float:
    """Over the classes of a case, of what is defined."""
    return _finite_mean([float(r[key]) for r in rows if r["case"] == case and r[key]])


def _finite_mean(values: Sequence[float]) -> float:
    finite = [v for v in values if np.isfinite(v)]
    return float(np.mean(finite)) if finite else float("nan")


def _panel(
    model: Model, case: PreparedCase, rows: Sequence[Row], why: str, tested: int
) -> OverlayPanel:
    known = np.array(list(model.task.classes))
    predicted, true = (
        np.searchsorted(known, labels).astype(np.uint8)
        for labels in (model.segment(case.prepared), _truth(case))
    )
    start, stop = _box((predicted > 0) | (true > 0))
    inside = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    affine = crop_affine(case.affine, start)
    corners = np.array(list(product(*zip([0, 0, 0], stop - start - 1, strict=True))), float)
    mean = _mean(rows, case.name, "dice")
    rank = {"median": "the median of", "worst": "the worst of"}.get(why, "the only one of")
    return OverlayPanel(
        title=f"{why.capitalize()} case {case.name}: Dice {mean:.3f}",
        caption=(
            f"By Dice, {rank} {tested} test case{'s' if tested != 1 else ''}. "
            + "; ".join(_words(row) for row in rows)
            + "."
        ),
        volume=_around(case, corners @ affine[:3, :3].T + affine[:3, 3]),
        overlay=predicted[inside],
        overlay_affine=affine,
        true=true[inside],
        style="labels",
        label_names=tuple(model.task.classes.values()),
    )


def _words(row: Row) -> str:
    found, true = (quantity(float(row[key]), "ml") for key in ("predicted_ml", "true_ml"))
    volumes = f"{found} found, {true} true"
    if row["presence"] != "both":
        return f"{row['name']}: {row['presence']} ({volumes})"
    return (
        f"{row['name']}: Dice {float(row['dice']):.3f}, HD95 {float(row['hd95_mm']):.1f} mm "
        f"({volumes})"
    )


def _truth(case: PreparedCase) -> npt.NDArray[np.int16]:
    if case.truth is None:
        raise ValueError(f"case '{case.name}' has no label volume")
    return case.truth


def _box(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and one past the last voxel of what is set, one voxel wider; all where none is."""
    shape = np.array(mask.shape)
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return np.zeros(3, dtype=np.int64), shape
    start, stop = np.array([(axis.start, axis.stop) for axis in found[0]]).T
    return np.maximum(start - 1, 0), np.minimum(stop + 1, shape)


def _around(case: PreparedCase, points_mm: Array) -> Volume:
    """The prepared scan around some points, in 8 bit and not too large."""
    to_vox = np.linalg.inv(case.prepared.affine)
    points = points_mm @ to_vox[:3, :3].T + to_vox[:3, 3]
    margin = _MARGIN_MM / np.array(case.spacing)
    shape = np.array(case.shape)
    start = np.clip(np.floor(points.min(0) - margin), 0, shape - 1).astype(int)
    stop = np.clip(np.ceil(points.max(0) + margin) + 1, start + 1, shape).astype(int)
    step = int(max(1, np.ceil((stop - start).max() / _LONGEST)))
    part = case.image[0][tuple(slice(a, b, step) for a, b in zip(start, stop, strict=True))]
    low, high = np.percentile(part, [0.5, 99.5])
    grey = np.clip((part - low) / (max(high - low, 1e-6)) * 255, 0, 255).astype(np.uint8)
    affine = crop_affine(case.prepared.affine, start)
    affine[:3, :3] *= step
    return Volume(grey, affine, case.name)
