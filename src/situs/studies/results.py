"""From finished runs to the tables of a study; every number keeps the folder it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from situs.errors import SitusError
from situs.evaluation.measures import mean_score
from situs.studies.config import StudyConfig
from situs.studies.graph import JobGraph
from situs.studies.jobs import RUN, JobFolders, JobResult
from situs.studies.summary import decided, rivals, summarise
from situs.tables import read_csv
from situs.text import number

Array = npt.NDArray[np.float64]
_LOST = 0.05
_LAST = 5  # rows of the loss, which jumps from one batch to the next
_KEPT = "delete the job's folder: the job is done again"


@dataclass(frozen=True)
class StudyResult:
    """The tables of a study.

    Attributes:
        study: What was asked.
        summary: One row an arm and label count: means, intervals, tests, costs.
        runs: One row a fine-tuning: arm, labels, seed, learning rate, score, whether it diverged
            or every rate of its tuning did or none could be tried, classes that it found nowhere,
            where its loss began and ended, cost, folder.
        cases: One row a fine-tuning and test case.
        pretrainings: One row a pretraining: scores, whether it diverged, cost, folder.
        tuning: One row a tuning run.
        decided: What the study was to decide, one row each.
        named_after: Fine-tunings that were finished when that was named; 0 for all told beforehand.
        rivals: The best arm of each label count beside the other arms.
        refused: Scans that pretraining could not use, and why.
        versions: Of situs, that finished jobs were made with.
        done: Finished jobs.
        expected: Jobs of the whole study.
        failed: Folders of jobs that failed when they were last tried.
        page: The HTML page, once written.
    """

    study: StudyConfig
    summary: pd.DataFrame
    runs: pd.DataFrame
    cases: pd.DataFrame
    pretrainings: pd.DataFrame
    tuning: pd.DataFrame
    rivals: pd.DataFrame
    decided: pd.DataFrame
    done: int
    expected: int
    refused: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    named_after: int = 0
    page: Path | None = None

    def __repr__(self) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        told = [
            f"{row['arm']} {row['labels']} labels {number(row['mean'])}"
            for row in self.summary.to_dict("records")
        ]
        scores = f"; {self.study.score.name}: {', '.join(told)}" if told else ""
        return (
            f"StudyResult('{self.study.name}', {self.done} of {self.expected} jobs{failed}{scores})"
        )


def collect(graph: JobGraph, folders: JobFolders, named_after: int = 0) -> StudyResult:
    """Read every finished job of ``graph`` and compare the arms.

    What the study decides has tests of its own only where no result was there when it was named.
    """
    study = graph.study
    tables: dict[str, list[dict[str, Any]]] = {}
    for fold in graph.folds:
        for name, rows in _rows(fold, folders).items():
            tables.setdefault(name, []).extend(rows)
    frame = pd.DataFrame(
        tables["cases"], columns=["arm", "labels", "seed", "case", "score", "folder"]
    )
    run_frame = pd.DataFrame(tables["runs"])
    pretrainings = pd.DataFrame(tables["pretrain"])
    beforehand = study if named_after == 0 else study.model_copy(update={"decides": ()})
    summary = summarise(beforehand, frame, run_frame, pretrainings)
    finished = [result for job in graph.jobs() if (result := folders.result(job)) is not None]
    return StudyResult(
        study=study,
        summary=summary,
        runs=run_frame,
        cases=frame,
        pretrainings=pretrainings,
        tuning=pd.DataFrame(tables["tune"]),
        rivals=rivals(study, frame, run_frame, summary),
        decided=decided(study, frame, run_frame),
        done=len(finished),
        expected=graph.expected(),
        refused=tuple(reason for result in finished for reason in result.refusals),
        versions=tuple(sorted({result.situs for result in finished})),
        failed=tuple(folders.failed(graph.jobs())),
        named_after=named_after,
    )


def _rows(graph: JobGraph, folders: JobFolders) -> dict[str, list[dict[str, Any]]]:
    """Rows of the tables, of one fold."""
    study = graph.study
    fold = {"fold": graph.fold} if study.folds > 1 else {}
    tables: dict[str, list[dict[str, Any]]] = {t: [] for t in ("runs", "cases", "pretrain", "tune")}
    for job, arm, labels, seed in graph.runs():
        result = folders.result(job)
        if result is None:
            continue
        scores = graph.scores(result, study.score)
        head = {"arm": arm.title, "labels": labels, "seed": seed}
        folder = result.folder.name
        tables["runs"].append(
            {
                **head,
                **fold,
                "lr": job.config.get("lr"),
                "score": mean_score(scores),
                "diverged": result.diverged,
                "no_rate": graph.none_held(arm, labels),
                "untried": graph.untried(arm, labels),
                "lost": ", ".join(lost_classes(result.cases)),
                **_loss(result.folder / RUN / "metrics.csv"),
                **_cost(result),
                "start": job.needs[0],
                "folder": folder,
            }
        )
        tables["cases"] += [
            {**head, "case": c, "score": v, "folder": folder} for c, v in scores.items()
        ]
    for job in graph.own_jobs():
        result = folders.result(job)
        if result is None or job.kind not in tables:
            continue
        row = {**(job.about or {}), **fold, **_cost(result), "folder": result.folder.name}
        row["key"] = job.key
        if job.kind == "tune":
            row |= {"diverged": result.diverged, **_loss(result.folder / RUN / "metrics.csv")}
            row["score"] = mean_score(graph.scores(result, study.score.for_tuning))
        else:
            row |= {
                "arm": " and ".join(graph.sharing(job)),
                "diverged": result.diverged,
                "scores": result.scores,
                "explained": list(result.explained),
            }
        tables[job.kind].append(row)
    return tables


def lost_classes(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Classes that a run found nowhere (mean Dice below 0.05): its training did not converge.

    Args:
        rows: Of a segmentation's ``cases.csv``; those of other tasks lose no class.
    """
    values: dict[str, list[float]] = {}
    for row in rows:
        if row.get("dice", "") not in ("", "nan") and row["presence"] != "absent":
            values.setdefault(row["name"], []).append(float(row["dice"]))
    return [name for name, found in values.items() if sum(found) / len(found) < _LOST]


def _loss(file: Path) -> dict[str, float]:
    """Where the loss of a fine-tuning began, and where it ended (mean of the last rows)."""
    rows: list[dict[str, str]] = []
    with suppress(FileNotFoundError, SitusError):  # 'situs check' tells of a damaged one
        rows = read_csv(file, _KEPT, "step")
    losses = [float(row["loss/total"]) for row in rows if row.get("loss/total")]
    first, last = (losses[0], np.mean(losses[-_LAST:])) if losses else (np.nan, np.nan)
    return {"loss_first": first, "loss_last": float(last)}


def _cost(result: JobResult) -> dict[str, Any]:
    names = ("seconds", "cpu_seconds", "peak_memory_mib", "gpu_memory_mib", "energy_kj")
    return {name: getattr(result, name) for name in names}
