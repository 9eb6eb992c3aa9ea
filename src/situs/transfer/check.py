"""Hold everything in a result folder against what was written."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

from situs.config import read_whole_yaml
from situs.errors import Fault, SitusError
from situs.files import file_inside, read_json
from situs.tables import read_csv
from situs.training.check import check_observations, check_weights, tried
from situs.training.states import States
from situs.transfer.folder import BEGUN, CONFIG, STATE
from situs.transfer.model import TASK, read_task
from situs.transfer.predict import PROBABILITIES, RECORD
from situs.transfer.prediction_table import TABLE
from situs.transfer.result import RESULT, Result

_AGAIN = "restore it from a copy, or predict again"


def check_result(path: Path) -> list[Fault]:
    """What is damaged or missing in the result folder of a fine-tuning."""
    metrics = path / "metrics.csv"
    files: list[tuple[Path, Callable[[], object]]] = [
        (path / CONFIG, lambda: read_whole_yaml(path / CONFIG, "seed")),
    ]
    if (path / BEGUN).is_file() and not (path / RESULT).is_file():
        files.append((path / BEGUN, lambda: read_json(path / BEGUN, "begin anew")))
    else:
        files.append((path / RESULT, lambda: Result.open(path)))
        files.append((path / "cases.csv", lambda: read_csv(path / "cases.csv", _AGAIN, "case")))
        files.append((metrics, lambda: read_csv(metrics, "go on without it", "step")))
    faults = [fault for file, read in files for fault in tried(file, read)]
    for state, whole in States(path / STATE).all():
        if not whole:
            faults.append(Fault(str(state), "is damaged; the one before it is resumed from"))
    if (path / "model").is_dir():
        faults += check_weights(path / "model")
        faults += tried(path / "model" / TASK, lambda: read_task(path / "model"))
    faults += check_observations(path.glob("*.obs"))
    return faults + _lost(path) + _volumes(path / "predictions")


def _lost(path: Path) -> list[Fault]:
    """Predictions of test cases that were written, and are gone."""
    try:
        result, config = Result.open(path), read_whole_yaml(path / CONFIG, "seed")
        names = {row["case"] for row in result.cases()}
    except (SitusError, OSError):
        return []  # told already
    if result.task != "segmentation" or not config.get("save_predictions"):
        return []
    files = (file_inside(path / "predictions", name, ".nii.gz") for name in sorted(names))
    return [Fault(str(file), f"is missing; {_AGAIN}") for file in files if not file.is_file()]


def check_predictions(path: Path) -> list[Fault]:
    """What is damaged or missing in a folder of ``situs predict``."""
    again = "move it away and predict again with --overwrite"
    faults = [*tried(path / RECORD, lambda: read_json(path / RECORD, again))]
    rows: list[dict[str, str]] = []
    faults += tried(path / TABLE, lambda: rows.extend(read_csv(path / TABLE, again, "scan")))
    for row in rows:
        if (name := row.get("file")) and not file_inside(path, name).is_file():
            faults.append(Fault(str(path / name), f"is missing; {_AGAIN}"))
    return faults + _volumes(path) + _volumes(path / PROBABILITIES)


def _volumes(folder: Path) -> list[Fault]:
    """Compressed predictions that do not inflate to their end."""
    return [
        fault
        for file in sorted(folder.glob("*.nii.gz"))
        for fault in tried(file, lambda file=file: _inflate(file))  # type: ignore[misc]
    ]


def _inflate(file: Path) -> None:
    """Read a compressed file to its end, where its own checksum stands."""
    try:
        if not file.stat().st_size:
            raise EOFError  # to gzip no stream at all is a whole one
        with gzip.open(file) as stream:
            while stream.read(2**20):
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SitusError(f"{file} is damaged ({type(error).__name__}); {_AGAIN}") from None
