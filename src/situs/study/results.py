"""From finished runs to the tables of a study; every number keeps the folder it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from situs.study.config import SCRATCH, StudyConfig
from situs.study.jobs import JobFolders
from situs.study.plan import Plan, case_scores
from situs.study.statistics import crossed_bootstrap, holm, labels_for, paired_test

Array = npt.NDArray[np.float64]
_LOST = 0.05


@dataclass(frozen=True)
class StudyResult:
    """The tables of a study.

    Attributes:
        study: What was asked.
        summary: One row an arm and label count: means, intervals, tests, costs.
        runs: One row a fine-tuning: arm, labels, seed, learning rate, score, cost, folder.
        cases: One row a fine-tuning and test case.
        pretrainings: One row a pretraining: scores, cost, folder.
        tuning: One row a tuning run.
        done: Finished jobs.
        expected: Jobs of the whole study.
        failed: Titles of jobs that ended without a result.
        page: The HTML page, once written.
    """

    study: StudyConfig
    summary: pd.DataFrame
    runs: pd.DataFrame
    cases: pd.DataFrame
    pretrainings: pd.DataFrame
    tuning: pd.DataFrame
    done: int
    expected: int
    failed: tuple[str, ...] = ()
    page: Path | None = None


def collect(plan: Plan, folders: JobFolders, failed: Iterable[str] = ()) -> StudyResult:
    """Read every finished job of ``plan`` and compare the arms."""
    study = plan.study
    runs, cases = [], []
    for job, arm, labels, seed in plan.runs():
        result = folders.result(job)
        if result is None:
            continue
        scores = case_scores(result["cases"], study.score)
        head = {"arm": arm.title, "labels": labels, "seed": seed}
        folder = Path(result["folder"]).name
        runs.append(
            {
                **head,
                "lr": job.config.get("lr"),
                "score": float(np.nanmean(list(scores.values()))),
                "lost": ", ".join(lost_classes(result["cases"])),
                **_cost(result),
                "folder": folder,
            }
        )
        cases += [{**head, "case": c, "score": v, "folder": folder} for c, v in scores.items()]
    others: dict[str, list[dict[str, Any]]] = {"pretrain": [], "tune": []}
    jobs = plan.jobs()
    for job in jobs:
        result = folders.result(job)
        if result is None or job.kind not in others:
            continue
        row = {**(job.about or {}), **_cost(result), "folder": Path(result["folder"]).name}
        if job.kind == "tune":
            scored = case_scores(result["cases"], study.score)
            row["score"] = float(np.nanmean(list(scored.values())))
        else:
            row["scores"] = result["scores"]
        others[job.kind].append(row)
    frame = pd.DataFrame(cases, columns=["arm", "labels", "seed", "case", "score", "folder"])
    run_frame = pd.DataFrame(runs)
    pretrainings = pd.DataFrame(others["pretrain"])
    return StudyResult(
        study=study,
        summary=summarise(study, frame, run_frame, pretrainings),
        runs=run_frame,
        cases=frame,
        pretrainings=pretrainings,
        tuning=pd.DataFrame(others["tune"]),
        done=sum(folders.result(job) is not None for job in jobs),
        expected=plan.expected(),
        failed=tuple(failed),
    )


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


def score_table(cases: pd.DataFrame, arm: str, labels: int) -> pd.DataFrame:
    """Scores with a row a seed and a column a case."""
    chosen = cases[(cases["arm"] == arm) & (cases["labels"] == labels)]
    return chosen.pivot_table(index="seed", columns="case", values="score", dropna=False)


def summarise(
    study: StudyConfig, cases: pd.DataFrame, runs: pd.DataFrame, pretrainings: pd.DataFrame
) -> pd.DataFrame:
    """One row an arm and label count.

    Every arm is compared with its scratch arm on the cases and seeds that both have; p values
    are adjusted over all comparisons of the study together.
    """
    rows = []
    for arm in study.arms:
        scratch = study.scratch_of(arm)
        for labels in study.labels:
            table = score_table(cases, arm.title, labels)
            if table.empty:
                continue
            own = crossed_bootstrap(table.to_numpy(), _rng(), study.bootstrap)
            row: dict[str, Any] = {
                "arm": arm.title,
                "method": arm.method,
                "labels": labels,
                "runs": len(table),
                "cases": table.shape[1],
                "mean": own.mean,
                "low": own.low,
                "high": own.high,
            }
            if scratch is not None:
                row |= _against(study, cases, table, scratch.title, labels)
            rows.append(row | _run_costs(runs, pretrainings, arm.title, labels))
    if not rows:
        return pd.DataFrame()
    summary = pd.DataFrame(rows)
    for column in ("against", "p"):
        if column not in summary:
            summary[column] = np.nan if column == "p" else None
    summary["p_holm"] = holm(summary["p"].tolist())
    return _with_labels_saved(study, summary)


def _against(
    study: StudyConfig, cases: pd.DataFrame, table: pd.DataFrame, scratch: str, labels: int
) -> dict[str, Any]:
    other = score_table(cases, scratch, labels)
    seeds, names = table.index.intersection(other.index), table.columns.intersection(other.columns)
    if not len(seeds) or not len(names):
        return {"against": scratch}
    mine = table.loc[seeds, names].to_numpy()
    theirs = other.loc[seeds, names].to_numpy()
    gain = crossed_bootstrap(mine - theirs, _rng(), study.bootstrap)
    return {
        "against": scratch,
        "gain": gain.mean,
        "gain_low": gain.low,
        "gain_high": gain.high,
        "p": paired_test(mine, theirs),
    }


def _with_labels_saved(study: StudyConfig, summary: pd.DataFrame) -> pd.DataFrame:
    """Add how many labels scratch needs for the same score."""
    needed: list[float] = []
    how: list[str] = []
    for row in summary.to_dict("records"):
        reference = summary[summary["arm"] == row["against"]].sort_values("labels")
        if row["method"] == SCRATCH or len(reference) < 2:
            needed.append(np.nan)
            how.append("")
            continue
        count, sign = labels_for(
            row["mean"], reference["labels"].tolist(), reference["mean"].tolist()
        )
        needed.append(count)
        how.append(sign)
    return summary.assign(scratch_labels=needed, scratch_labels_is=how)


def _run_costs(
    runs: pd.DataFrame, pretrainings: pd.DataFrame, arm: str, labels: int
) -> dict[str, Any]:
    own = runs[(runs["arm"] == arm) & (runs["labels"] == labels)]
    row: dict[str, Any] = {
        "lr": ", ".join(f"{v:g}" for v in sorted(set(own["lr"].dropna()))),
        "finetune_seconds": float(own["seconds"].mean()),
        "finetune_memory_mib": float(own["peak_memory_mib"].max()),
    }
    if not pretrainings.empty:
        before = pretrainings[pretrainings["arm"] == arm]
        if len(before):
            row["pretrain_seconds"] = float(before["seconds"].mean())
            row["pretrain_memory_mib"] = float(before["peak_memory_mib"].max())
            row["pretrain_energy_kj"] = before["energy_kj"].mean()
    return row


def _cost(result: dict[str, Any]) -> dict[str, Any]:
    names = ("seconds", "cpu_seconds", "peak_memory_mib", "gpu_memory_mib", "energy_kj")
    return {name: result.get(name) for name in names}


def _rng() -> np.random.Generator:
    # The same draws for every interval: differences between them are then not the draws'.
    return np.random.default_rng(0)
