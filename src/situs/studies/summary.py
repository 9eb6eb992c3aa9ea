"""From scores to conclusions: means, gains, tests, labels saved, and the best beside its rivals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from situs.evaluation.statistics import crossed_bootstrap, holm, labels_for, paired_test
from situs.studies.arms import Arm
from situs.studies.config import StudyConfig


def score_table(cases: pd.DataFrame, arm: str, labels: int) -> pd.DataFrame:
    """Scores with a row a seed and a column a case.

    Of a cross-validation each case has a column, too: it is tested in one fold alone, and the draws
    of a seed in all folds make one row.
    """
    chosen = cases[(cases["arm"] == arm) & (cases["labels"] == labels)]
    return chosen.pivot_table(index="seed", columns="case", values="score", dropna=False)


def unscored(cases: pd.DataFrame, arm: str, labels: int) -> int:
    """How many cases of an arm's runs have no score."""
    own = cases[(cases["arm"] == arm) & (cases["labels"] == labels)]
    return int(own["score"].isna().sum())


def endings(runs: pd.DataFrame, arm: str, labels: int) -> tuple[int, int]:
    """How many runs of an arm ended with scores, and how many diverged instead."""
    if runs.empty:
        return 0, 0
    gone = runs.loc[(runs["arm"] == arm) & (runs["labels"] == labels), "diverged"]
    return int((~gone.astype(bool)).sum()), int(gone.sum())


def selected(row: Mapping[Any, Any]) -> bool:
    """Whether a row tells of a selection, since a run of one of both arms diverged.

    What is left was chosen by how it went, so it is told and not tested, and no arm is the best by
    it. A worst value for the lost run would only turn the flattery round: Dice 0 for one run of
    scratch would be a gain of tens of points, and a distance has no worst value.
    """
    return any(row.get(key, 0) > 0 for key in ("diverged", "against_diverged"))


def summarise(
    study: StudyConfig, cases: pd.DataFrame, runs: pd.DataFrame, pretrainings: pd.DataFrame
) -> pd.DataFrame:
    """One row an arm and label count.

    Every arm is compared with its reference, by default the scratch arm, on the cases and seeds
    that both have. p values are adjusted over all these comparisons together, but for those that
    ``decides`` names, which have theirs of :func:`decided`. Comparisons in which a run diverged
    have none (:func:`selected`).
    """
    rows = []
    for arm in study.arms:
        reference = study.reference_of(arm)
        for labels in study.labels:
            table = score_table(cases, arm.title, labels)
            ended, diverged = endings(runs, arm.title, labels)
            if table.empty and not diverged:
                continue
            own = crossed_bootstrap(table.to_numpy(), _rng(), study.bootstrap)
            row: dict[str, Any] = {
                "arm": arm.title,
                "method": arm.method if arm.init is None else "init",
                "labels": labels,
                "runs": ended,
                "diverged": diverged,
                "cases": table.shape[1],
                "unscored": unscored(cases, arm.title, labels),
                "mean": own.mean,
                "low": own.low,
                "high": own.high,
            }
            if reference is not None:
                row |= _against(study, cases, runs, arm.title, reference, labels)
            rows.append(row | _run_costs(runs, pretrainings, arm.title, labels))
    if not rows:
        return pd.DataFrame()
    summary = pd.DataFrame(rows)
    for column in ("against", "p"):
        if column not in summary:
            summary[column] = np.nan if column == "p" else None
    summary["p_holm"] = _adjusted(summary, decided(study, cases, runs))
    return _with_labels_saved(study, summary)


def _against(
    study: StudyConfig,
    cases: pd.DataFrame,
    runs: pd.DataFrame,
    arm: str,
    reference: Arm,
    labels: int,
) -> dict[str, Any]:
    """One arm beside another; without a p value where a run of either diverged."""
    table = score_table(cases, arm, labels)
    named = {
        "against": reference.title,
        "against_scratch": reference.scratch,
        "diverged": endings(runs, arm, labels)[1],
        "against_diverged": endings(runs, reference.title, labels)[1],
    }
    other = score_table(cases, reference.title, labels)
    seeds, names = table.index.intersection(other.index), table.columns.intersection(other.columns)
    if not len(seeds) or not len(names):
        return named
    gains = (table.loc[seeds, names] - other.loc[seeds, names]).to_numpy() * study.score.sign
    gain = crossed_bootstrap(gains, _rng(), study.bootstrap)
    return {
        **named,
        "gain": gain.mean,
        "gain_low": gain.low,
        "gain_high": gain.high,
        "p": math.nan if selected(named) else paired_test(gains),
    }


def decided(study: StudyConfig, cases: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The comparisons that were named beforehand, one row each, in their order.

    Tests in a sequence fixed beforehand need no correction if each counts only while all before it
    were shown: the adjusted p value of one is the largest up to it (Maurer, Hothorn and Lehmacher,
    1995). One that lacks a run leaves it open for all after it: who looked before the last one,
    and stopped where it suited, would have tested several times. So does one of which a run
    diverged (:func:`selected`).
    """
    rows: list[dict[str, Any]] = []
    largest = 0.0
    for one in study.decides:
        other = study.compared_in(one)
        assert other is not None  # the configuration is refused without
        found = _against(study, cases, runs, one.arm, other, one.labels)
        ended = [endings(runs, arm, one.labels)[0] for arm in (one.arm, other.title)]
        whole = min(ended) == len(study.seeds) * study.folds
        p = found.get("p", math.nan) if whole else math.nan
        largest = math.nan if math.isnan(largest) or math.isnan(p) else max(largest, p)
        rows.append({"arm": one.arm, "labels": one.labels, **found, "p_sequence": largest})
    return pd.DataFrame(rows)


def _adjusted(summary: pd.DataFrame, decided: pd.DataFrame) -> list[float]:
    """Of each row of the summary, the p value that holds for its family of tests."""
    named = {
        (row["arm"], row["labels"], row["against"]): row["p_sequence"]
        for row in decided.to_dict("records")
    }
    keys = list(zip(summary["arm"], summary["labels"], summary["against"], strict=True))
    rest = [i for i, key in enumerate(keys) if key not in named]
    adjusted = dict(zip(rest, holm([summary["p"].tolist()[i] for i in rest]), strict=True))
    return [adjusted[i] if i in adjusted else named[key] for i, key in enumerate(keys)]


def rivals(
    study: StudyConfig, cases: pd.DataFrame, runs: pd.DataFrame, summary: pd.DataFrame
) -> pd.DataFrame:
    """The best arm of each label count beside every other arm with the same reference.

    The best was picked by looking at these numbers, which flatters it; p values are adjusted over
    the whole table.
    """
    rows = []
    if "gain" not in summary:
        return pd.DataFrame()
    compared = summary.dropna(subset=["gain"])
    for _, group in compared.groupby(["labels", "against"], sort=False):
        first = best_of(group.to_dict("records"))
        best, labels = str(first["arm"]), int(first["labels"])
        for other in study.arms:
            if other.title == best or other.title not in set(group["arm"]):
                continue
            found = _against(study, cases, runs, best, other, labels)
            if "gain" in found:
                found.pop("against_scratch")
                rows.append({"arm": best, "labels": labels, **found})
    if not rows:
        return pd.DataFrame()
    frame = pd.DataFrame(rows)
    return frame.assign(p_holm=holm(frame["p"].tolist()))


def lost_in(runs: pd.DataFrame) -> Counter[str]:
    """In how many runs each class was found nowhere, the most frequent first."""
    named = (name for lost in runs["lost"] if lost for name in lost.split(", "))
    return Counter(dict(Counter(named).most_common()))


def best_of(rows: Sequence[Mapping[Any, Any]]) -> Mapping[Any, Any]:
    """The row with the largest gain; one that tells of a selection only where all do."""
    return max(rows, key=lambda row: (not selected(row), row["gain"]))


def _with_labels_saved(study: StudyConfig, summary: pd.DataFrame) -> pd.DataFrame:
    """Add how many labels scratch needs for the same score, whatever an arm is tested against.

    Points of which a run diverged are on no curve, and have no place on one.
    """
    arms = {arm.title: arm for arm in study.arms}
    needed: list[float] = []
    how: list[str] = []
    for row in summary.to_dict("records"):
        scratch = study.scratch_of(arms[row["arm"]])
        name = "" if scratch is None else scratch.title
        whole = summary[(summary["arm"] == name) & (summary["diverged"] == 0)]
        reference = whole.dropna(subset=["mean"]).sort_values("labels")
        if len(reference) < 2 or math.isnan(row["mean"]) or row["diverged"]:
            needed.append(np.nan)
            how.append("")
            continue
        better = study.score.sign
        reached = (better * reference["mean"]).tolist()
        count, sign = labels_for(better * row["mean"], reference["labels"].tolist(), reached)
        needed.append(count)
        how.append(sign)
    return summary.assign(scratch_labels=needed, scratch_labels_is=how)


def _run_costs(
    runs: pd.DataFrame, pretrainings: pd.DataFrame, arm: str, labels: int
) -> dict[str, Any]:
    own = runs[(runs["arm"] == arm) & (runs["labels"] == labels)]
    row: dict[str, Any] = {
        "lr": ", ".join(f"{v:g}" for v in sorted(set(own["lr"].dropna()))),
        "no_rate": bool(own["no_rate"].any()),
        "untried": bool(own["untried"].any()),
        "lost": int((own["lost"] != "").sum()),
        "lost_classes": ", ".join(lost_in(own)),
        "finetune_seconds": float(own["seconds"].mean()),
        "finetune_memory_mib": float(own["peak_memory_mib"].max()),
    }
    if not pretrainings.empty:
        before = pretrainings[pretrainings["key"].isin(own["start"])]
        if len(before):
            row["pretrain_seconds"] = float(before["seconds"].mean())
            row["pretrain_memory_mib"] = float(before["peak_memory_mib"].max())
            row["pretrain_energy_kj"] = before["energy_kj"].mean()
    return row


def _rng() -> np.random.Generator:
    # The same draws for every interval: differences between them are then not the draws'.
    return np.random.default_rng(0)
