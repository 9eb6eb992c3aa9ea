"""What a fine-tuning leaves behind, and how to read it again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from situs.config import Config, validate
from situs.errors import RunError
from situs.files import read_csv, read_json, write_csv, write_json
from situs.version import __version__
from situs.weights.ledger import Ledger

RESULT = "result.json"
OBSERVATION = "observation.obs"
_REMEDY = "restore it from a copy, or fine-tune again"

HEADINGS = {
    "dice": "Dice",
    "hd95_mm": "HD95 (mm)",
    "surface_dice": "surface Dice",
    "auc": "AUC",
    "balanced_accuracy": "balanced accuracy",
    "calibration_error": "calibration error",
    "chance": "chance (balanced accuracy)",
    "cases": "cases",
    "hd95_undefined": "HD95 undefined",
}
"""Score → what it is called; others go by their own name."""


class Result(Config):
    """A finished fine-tuning.

    Its folder holds ``result.json``, ``config.yaml``, ``cases.csv``, ``metrics.csv``,
    ``predictions/*.nii.gz``, ``model/`` and, for segmentation, ``observation.obs``: truth and
    prediction in the median and the worst test case.

    Attributes:
        folder: Where it stands.
        task: ``"segmentation"`` or ``"classification"``.
        init: The weights it began with, or ``"none"``.
        method: Pretext task of those weights, or ``"none"``.
        scores: Means over test cases and classes; None where undefined.
        classes: The same for every class.
        split: ``train``, ``validation`` and ``test`` → names of cases.
        ledger: What was loaded; None for random initialisation.
        best_step: Whose weights were tested.
        validation_score: Theirs; None without validation cases.
        seconds: ``prepare``, ``train`` and ``test``.
        parameters: Numbers in the network, and how many of them were trained.
        situs_version: That wrote it.
    """

    folder: Path
    task: str
    init: str
    method: str
    scores: dict[str, float | None]
    classes: dict[str, dict[str, float | None]]
    split: dict[str, tuple[str, ...]]
    ledger: Ledger | None = None
    best_step: int
    validation_score: float | None = None
    seconds: dict[str, float]
    parameters: dict[str, int]
    situs_version: str = __version__

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Read a result folder.

        Raises:
            RunError: If the folder holds no finished result.
        """
        file = Path(folder) / RESULT
        if not file.is_file():
            raise RunError(f"{folder} holds no finished fine-tuning: it has no {RESULT}")
        values = read_json(file, _REMEDY)
        return validate(cls, {**values, "folder": Path(folder)})

    def save(self) -> None:
        """Write ``result.json``; it comes last, so that its presence means finished."""
        write_json(self.folder / RESULT, self.model_dump(mode="json", exclude={"folder"}))

    def __repr__(self) -> str:
        known = {HEADINGS.get(k, k): v for k, v in self.scores.items() if v is not None}
        (name, value), *_ = known.items() or [("no score", math.nan)]
        start = "scratch" if self.init == "none" else f"{self.method} weights"
        return (
            f"Result('{self.folder}', {self.task} from {start}, {name} {value:.3f} over "
            f"{len(self.split['test'])} test cases)"
        )

    def cases(self) -> list[dict[str, str]]:
        """Rows of ``cases.csv``."""
        return read_csv(self.folder / "cases.csv", _REMEDY, "case")


def defined(scores: Mapping[str, float]) -> dict[str, float | None]:
    """NaN, which JSON does not know, becomes None."""
    return {key: None if math.isnan(value) else float(value) for key, value in scores.items()}


def write_cases(folder: Path, rows: Sequence[Mapping[str, Any]], name: str = "cases.csv") -> None:
    """Write a table with one row a case (or class of a case)."""
    write_csv(folder / name, rows)
