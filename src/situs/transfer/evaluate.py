"""Scoring a model: on validation cases while it trains, on test cases at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from situs.errors import ConfigError
from situs.evaluation.metrics import (
    ClassScore,
    Summary,
    score_classification,
    score_segmentation,
    summarise_segmentation,
)
from situs.files import file_inside, naming, parse_json, writing
from situs.transfer.cases import Cohort, PreparedCase
from situs.transfer.config import FinetuneConfig
from situs.transfer.folder import JOURNAL
from situs.transfer.model import Model
from situs.transfer.result import write_cases


def validation_score(model: Model, cases: Iterable[PreparedCase]) -> float:
    """Mean Dice on the prepared grid, or mean log-likelihood (an AUC of few cases is coarse)."""
    values = []
    for case in cases:
        probabilities = model.probabilities(case.prepared)
        if case.label is not None:
            values += _dices(probabilities.argmax(0), case.label, len(probabilities))
        elif case.target is not None:
            p = np.clip(probabilities, 1e-6, 1 - 1e-6)
            likely = np.where(case.target > 0, p, 1 - p) if case.target.ndim else p[case.target]
            values.append(float(np.log(likely).mean()))
    return float(np.mean(values)) if values else 0.0


def _dices(
    predicted: npt.NDArray[np.int64], true: npt.NDArray[np.int16], classes: int
) -> list[float]:
    both = np.bincount(true[predicted == true], minlength=classes)
    sizes = np.bincount(predicted.ravel(), minlength=classes) + np.bincount(
        true.ravel(), minlength=classes
    )
    return [2 * float(both[k]) / float(sizes[k]) for k in range(1, classes) if sizes[k]]


def evaluate(config: FinetuneConfig, model: Model, cohort: Cohort, names: Sequence[str]) -> Summary:
    """Score test cases; write ``cases.csv`` and, for segmentation, the predictions.

    Each case is written down when it is done; a resumed evaluation goes on with the others.

    Args:
        config: Of the fine-tuning.
        model: To score.
        cohort: Holds the cases.
        names: Of the test cases, in the order of the tables.

    Returns:
        Class name → scores, and the entry ``"mean"``.
    """
    journal = Journal(config.out / JOURNAL)
    score = _classified if config.task == "classification" else _segmented
    for case in cohort.stream([name for name in names if name not in journal.done]):
        journal.add(case.name, score(config, model, case))
    found = [row for name in names for row in journal.done[name]]
    if config.task == "classification":
        return _classification(config, model, found)
    scores = [ClassScore(**row) for row in found]
    write_cases(config.out, [asdict(score) for score in scores])
    return summarise_segmentation(scores)


class Journal:
    """What was found for each case so far, a line a case."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, list[dict[str, Any]]] = {}
        lines = path.read_bytes().splitlines() if path.is_file() else []
        for line in lines:
            with suppress(ValueError):  # the last one, of a process that was killed
                name, rows = parse_json(line)
                self.done[name] = rows

    def add(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Write down a case."""
        self.done[name] = rows
        with naming(self.path), self.path.open("ab") as file:
            file.write(b"\n" + json.dumps([name, rows]).encode())
            file.flush()
            os.fsync(file.fileno())


def _segmented(config: FinetuneConfig, model: Model, case: PreparedCase) -> list[dict[str, Any]]:
    if case.truth is None:
        raise ConfigError(f"case '{case.name}' has no label volume to be tested against")
    predicted = model.segment(case.prepared)
    if config.save_predictions:
        file = file_inside(config.out / "predictions", case.name, ".nii.gz")
        write_labels(file, predicted, case.affine)
    return [
        asdict(score)
        for score in score_segmentation(
            case.name,
            predicted,
            case.truth,
            model.task.classes,
            np.linalg.norm(case.affine[:3, :3], axis=0).tolist(),
            config.surface_tolerance_mm,
        )
    ]


def _classified(config: FinetuneConfig, model: Model, case: PreparedCase) -> list[dict[str, Any]]:
    if case.target is None:
        raise ConfigError(f"case '{case.name}' has no class to be tested against")
    p = model.probabilities(case.prepared)
    return [{"case": case.name, "p": p.tolist(), "true": case.target.tolist()}]


def _classification(
    config: FinetuneConfig, model: Model, found: Sequence[dict[str, Any]]
) -> Summary:
    names = list(model.task.classes.values())
    multi = model.task.multi_label
    probabilities, true, rows = [], [], []
    for case in found:
        p, target = np.array(case["p"]), np.array(case["true"])
        probabilities.append(p)
        true.append(target)
        on = np.flatnonzero(target) if multi else [int(target)]
        decided = np.flatnonzero(p >= 0.5) if multi else [int(p.argmax())]
        rows.append(
            {
                "case": case["case"],
                "true": "; ".join(names[k] for k in on),
                "predicted": "; ".join(names[k] for k in decided),
                **{f"p({name})": float(v) for name, v in zip(names, p, strict=True)},
            }
        )
    write_cases(config.out, rows)
    return score_classification(np.stack(probabilities), np.stack(true), names)


def write_labels(
    path: Path, labels: npt.NDArray[np.int16], affine: npt.NDArray[np.float64]
) -> None:
    """Write a label volume as NIfTI with the geometry of its scan."""
    _write(path, labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.int16), affine)


def write_probabilities(
    path: Path, values: npt.NDArray[np.float32], affine: npt.NDArray[np.float64]
) -> None:
    """Write probabilities ``(K, X, Y, Z)`` as NIfTI ``(X, Y, Z, K)`` with a scan's geometry."""
    _write(path, np.moveaxis(values, 0, -1), affine)


def _write(path: Path, values: npt.NDArray[np.generic], affine: npt.NDArray[np.float64]) -> None:
    image = nib.Nifti1Image(values, affine)
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    image.header.set_xyzt_units("mm")
    with writing(path, ".nii.gz") as part:
        nib.save(image, part)
