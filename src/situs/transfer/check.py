"""Hold everything in a result folder against what was written."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from situs.config import read_yaml
from situs.errors import Fault, SitusError
from situs.files import read_csv
from situs.training.check import check_observations, check_weights, tried
from situs.transfer.result import RESULT, Result

_AGAIN = "restore it from a copy, or predict again"


def check_result(path: Path) -> list[Fault]:
    """What is damaged or missing in the result folder of a fine-tuning."""
    files = [
        (path / RESULT, lambda: Result.open(path)),
        (path / "config.yaml", lambda: read_yaml(path / "config.yaml")),
        (path / "cases.csv", lambda: read_csv(path / "cases.csv", _AGAIN, "case")),
        (path / "metrics.csv", lambda: read_csv(path / "metrics.csv", "go on without it", "step")),
    ]
    faults = [fault for file, read in files for fault in tried(file, read)]
    if (path / "model").is_dir():
        faults += check_weights(path / "model")
    faults += check_observations(path.glob("*.obs"))
    for file in sorted((path / "predictions").glob("*.nii.gz")):
        faults += tried(file, lambda file=file: _inflate(file))  # type: ignore[misc]
    return faults


def _inflate(file: Path) -> None:
    """Read a compressed file to its end, where its own checksum stands."""
    try:
        with gzip.open(file) as stream:
            while stream.read(2**20):
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SitusError(f"{file} is damaged ({type(error).__name__}); {_AGAIN}") from None
