"""What a fine-tuning leaves behind, and how to read it again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from situs.errors import RunError
from situs.files import write_json
from situs.tables import read_csv, write_csv
from situs.training.record import ResultRecord, read_record
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


class Result(ResultRecord):
    """A finished fine-tuning, in its folder.

    The folder holds ``result.json``, ``config.yaml``, ``cases.csv``, ``metrics.csv``,
    ``predictions/*.nii.gz``, ``model/`` and, for segmentation, ``observation.obs``: truth and
    prediction in the median and the worst test case.

    Attributes:
        folder: Where it stands.
        ledger: What was loaded; None for random initialisation.
    """

    folder: Path
    ledger: Ledger | None = None

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Read a result folder.

        Raises:
            RunError: If the folder holds no finished result, or a damaged one.
        """
        file = Path(folder) / RESULT
        if not file.is_file():
            raise RunError(f"{folder} holds no finished fine-tuning: it has no {RESULT}")
        return read_record(cls, file, _REMEDY, folder=Path(folder))

    def save(self) -> None:
        """Write ``result.json``; it comes last, so that its presence means finished."""
        write_json(self.folder / RESULT, self.model_dump(mode="json", exclude={"folder"}))

    def __repr__(self) -> str:
        known = {HEADINGS.get(k, k): v for k, v in self.scores.items() if v is not None}
        (name, value), *_ = known.items() or [("no score", math.nan)]
        start = "scratch" if self.scratch else f"{self.method} weights"
        return (
            f"Result('{self.folder}', {self.task} from {start}, {name} {value:.3f} over "
            f"{len(self.cases_of('test'))} test cases)"
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
