"""What a report is made from: one run folder, read without loading a network.

Everything that may be absent (a run that is still going on, or stopped early) is empty here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from situs.errors import RunError
from situs.files import read_json
from situs.made import made
from situs.observation import Observation, Score
from situs.scans.aliases import Names
from situs.tables import read_csv
from situs.training.record import DataRecord, ResultRecord, RunRecord, read_record
from situs.training.run import Run, whole_observations

_REMEDY = "restore it from a copy, or leave this folder out"


@dataclass(frozen=True)
class Transfer:
    """One fine-tuning result.

    Attributes:
        name: Of its folder.
        result: ``result.json``.
        cases: Rows of ``cases.csv``.
        observations: What it was seen to do, where it kept observations.
    """

    name: str
    result: ResultRecord
    cases: list[dict[str, str]]
    observations: tuple[Observation, ...] = ()

    @property
    def labelled(self) -> int:
        """Labelled cases that it was trained on."""
        return len(self.result.cases_of("train"))

    @property
    def names(self) -> set[str]:
        """Names of all cases that it speaks of."""
        listed = (name for part in self.result.split.values() for name in part)
        return {*listed, *(row["case"] for row in self.cases)}


@dataclass(frozen=True)
class RunFolder:
    """A run as its files tell it.

    Attributes:
        path: The folder.
        config: The resolved configuration.
        record: ``run.json``.
        data: ``data.json``.
        metrics: Column → values, NaN where a row has none; ``step`` is always there.
        files: Step → observation files, one a part.
        transfers: Fine-tunings that began from this run, and those from scratch beside them.
        shown: Whether pages show the names of scans and cases, not short ids.
    """

    path: Path
    config: dict[str, Any]
    record: RunRecord
    data: DataRecord
    metrics: dict[str, npt.NDArray[np.float64]]
    files: dict[int, list[Path]]
    transfers: tuple[Transfer, ...] = ()
    shown: bool = False
    _cache: dict[int, tuple[Observation, ...]] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    @property
    def method(self) -> str:
        """The method or composition."""
        return str(self.record.method or self.config.get("method") or "unknown method")

    @cached_property
    def names(self) -> Names:
        """What pages of this run call its scans and the cases of its fine-tunings."""
        names = Names(shown=self.shown)
        for row in self.data.records:
            names.add(row.source or row.key[:8], row.key)
        refused = (row.source for row in self.data.refused if row.source)
        for name in (*refused, *(n for transfer in self.transfers for n in transfer.names)):
            names.add(name)
        return names

    @property
    def steps(self) -> list[int]:
        """Observed steps, in order."""
        return sorted(self.files)

    def at(self, step: int) -> tuple[Observation, ...]:
        """The observations of a step, one a part."""
        if step not in self._cache:
            self._cache[step] = tuple(whole_observations(self.files[step]))
        return self._cache[step]

    @cached_property
    def latest(self) -> tuple[Observation, ...]:
        """The observations of the last observed step, held against the audit if there was one."""
        found = next(filter(None, map(self.at, reversed(self.steps))), ())
        return audited(found, self.audit)

    @cached_property
    def audit(self) -> dict[str, Any]:
        """What ``situs audit`` wrote; empty if it was never run."""
        file = self.path / "audit.json"
        again = "'situs audit' with --out writes it again"
        return read_json(file, again) if file.is_file() else {}


def read_run(
    path: str | Path, transfers: Sequence[str | Path] = (), *, names: bool = False
) -> RunFolder:
    """Read a run folder.

    Args:
        path: The folder.
        transfers: Result folders beside those under ``transfer/`` of the run.
        names: Show names of scans and cases on pages, not short ids.

    Raises:
        RunError: If ``path`` is no run folder, or a file in it cannot be read.
    """
    try:
        run = Run.open(path)
    except RunError as error:
        if not made(Path(path)).startswith("a result"):
            raise
        raise RunError(
            f"{error}, which the report of a run shows: situs observe RUN --transfer {path}"
        ) from None
    found = sorted(file.parent for file in (run.path / "transfer").glob("*/result.json"))
    try:
        return RunFolder(
            path=run.path,
            config=run.config if (run.path / "config.yaml").is_file() else {},
            record=_without_scans(run.record),
            data=run.data if (run.path / "data.json").is_file() else DataRecord(),
            metrics=_columns(run.metrics()),
            files=run.observation_files(),
            transfers=tuple(read_transfer(f) for f in [*found, *map(Path, transfers)]),
            shown=names,
        )
    except (ValueError, OSError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def audited(
    observations: Sequence[Observation], audit: Mapping[str, Any]
) -> tuple[Observation, ...]:
    """Observations whose controls are the harder of the cheap ones and of the audit's."""
    rows = audit.get("scores", {})

    def held(method: str, score: Score) -> Score:
        row = rows.get(f"{method}/{score.name}", rows.get(score.name, {}))
        harder = min if score.better == "lower" else max
        levels = {
            control: harder(v for v in (row[control], getattr(score, control)) if v is not None)
            for control in ("emptied", "shuffled")
            if row.get(control) is not None
        }
        return replace(score, **levels)

    return tuple(
        replace(
            observation,
            sections=tuple(
                replace(s, scores=tuple(held(observation.method, score) for score in s.scores))
                for s in observation.sections
            ),
        )
        for observation in observations
    )


def read_transfer(folder: Path) -> Transfer:
    """Read a fine-tuning's result folder.

    Raises:
        RunError: If it holds no finished result.
    """
    file = folder / "result.json"
    if not file.is_file():
        raise RunError(f"{folder} holds no finished fine-tuning: it has no {file.name}")
    cases: list[dict[str, str]] = []
    if (folder / "cases.csv").is_file():
        cases = read_csv(folder / "cases.csv", _REMEDY, "case")
    seen = tuple(whole_observations(sorted(folder.glob("**/*.obs"))))
    return Transfer(folder.name, read_record(ResultRecord, file, _REMEDY), cases, seen)


def _without_scans(record: RunRecord) -> RunRecord:
    """``run.json``; in older ones the reason of a stop named the scans of the batch."""
    if record.stopped_by is None:
        return record
    reason = record.stopped_by.partition("; scans in the batch")[0]
    return record.model_copy(update={"stopped_by": reason})


def _columns(rows: list[dict[str, float]]) -> dict[str, npt.NDArray[np.float64]]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: np.asarray([row.get(name, math.nan) for row in rows]) for name in names}
