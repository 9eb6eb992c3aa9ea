"""A study's numbers as people write them: in tables, in sentences, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from situs import text
from situs.evaluation.measures import Metric
from situs.studies.arms import Arm
from situs.studies.config import StudyConfig
from situs.studies.jobs import LOG
from situs.studies.results import StudyResult
from situs.studies.summary import best_of, lost_in, selected

Record = Mapping[Any, Any]
_LOGS = 3  # named where jobs failed


def number(value: Any, digits: int = 3) -> str:
    """A number for a table; a dash where there is none."""
    return "–" if _absent(value) else f"{value:.{digits}f}".replace("-", "−")


def p_value(value: Any) -> str:
    """A p value with two digits, or below what is worth telling."""
    if _absent(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def duration(seconds: Any) -> str:
    """Seconds as a person says them; a dash where there are none."""
    return "–" if _absent(seconds) else text.duration(seconds)


def labels_needed(row: Record) -> str:
    """How many labels scratch needs for the score of a row of the summary."""
    if _absent(row["scratch_labels"]):
        return "–"
    sign = "" if row["scratch_labels_is"] == "=" else f"{row['scratch_labels_is']} "
    return f"{sign}{_few(row['scratch_labels'])}"


def _few(count: float) -> str:
    """A number of labels, to the tenth where that tells it from its neighbours."""
    return f"{count:.0f}" if count >= 10 or count == round(count) else f"{count:.1f}"


def difference(value: Any, metric: Metric) -> str:
    """A difference of scores in the metric's unit, with its sign."""
    return "–" if _absent(value) else f"{metric.factor * value:+.1f}".replace("-", "−")


def interval(low: Any, high: Any, text: Callable[[Any], str] = number) -> str:
    """Both ends of an interval."""
    return "–" if _absent(low) else f"{text(low)} to {text(high)}"


def verdict(row: Record) -> str:
    """``"better"``, ``"worse"`` or ``"same"`` (told apart at an adjusted p of 0.05), or empty.

    Empty where nothing was compared, or what a run that diverged has left.
    """
    if _absent(row.get("gain")) or selected(row):
        return ""
    if _absent(row["p_holm"]) or row["p_holm"] >= 0.05:
        return "same"
    return "better" if row["gain"] > 0 else "worse"


def missing(result: StudyResult) -> str | None:
    """What is still to be done, as a sentence."""
    count = result.expected - result.done
    if count == 0:
        return None
    return f"{count} of {result.expected} jobs are still to be done; numbers may change."


def unstable(result: StudyResult) -> list[str]:
    """What makes the numbers doubtful, one sentence each, and what to do.

    Jobs of different versions of situs; arms that nothing is compared with; rates that all
    diverged, and runs; cases without a score; runs that lost a class.
    """
    mixed = [
        f"Jobs were made with different versions of situs ({', '.join(result.versions)}), whose "
        "defaults may differ. Delete the older job folders to have them made anew."
    ]
    mixed = mixed if len(result.versions) > 1 else []
    return [
        *mixed,
        *uncompared(result.study),
        *unlike_views(result.study),
        *_without_rate(result),
        *_pretrainings_lost(result),
        *_diverged(result),
        *_unscored(result),
        *_lost(result),
    ]


def failures(result: StudyResult) -> list[str]:
    """Jobs that failed when they were last tried, one sentence for all."""
    if not result.failed:
        return []
    count = len(result.failed)
    many = f"{count} jobs" if count > 1 else "1 job"
    logs = ", ".join(str(result.study.out / "jobs" / name / LOG) for name in result.failed[:_LOGS])
    more = f" and {count - _LOGS} more that the page lists" if count > _LOGS else ""
    again = "them" if count > 1 else "it"
    return [f"{many} failed, and the next call tries {again} again. Why: {logs}{more}"]


def uncompared(study: StudyConfig) -> list[str]:
    """Arms without another to be tested against, one sentence each."""
    return [
        f"{arm.title} is compared with nothing: no arm starts its network from scratch. Add one "
        f"({_scratch_for(study, arm)}), or name one with 'against'."
        for arm in study.arms
        if not arm.scratch and study.reference_of(arm) is None
    ]


def unlike_views(study: StudyConfig) -> list[str]:
    """Arms that see views of another size than the patch although ``views`` asks for it."""
    return [
        f"{title} keeps the views of {method}, which are not of the fine-tuning patch's size: what "
        "it asks depends on their size, or the study gives another."
        for title, method in study.own_views()
    ]


def _scratch_for(study: StudyConfig, arm: Arm) -> str:
    if arm.init is not None:
        return f"like: {arm.init}"
    return f"method: none, backbone: {{spatial_dims: {study.backbone_of(arm).spatial_dims}, …}}"


def _without_rate(result: StudyResult) -> list[str]:
    """Arms of which every candidate rate diverged, or none was tried: one sentence for all."""
    rows, rates, told = result.summary.to_dict("records"), result.study.tune.lr, []
    if who := _points(result, [row for row in rows if row["no_rate"]]):
        told.append(
            f"Every rate of tune.lr ({', '.join(f'{lr:g}' for lr in sorted(rates))}) diverged in a "
            f"trial of {who}. The smallest, {min(rates):g}, was taken all the same: give lower "
            "rates in tune.lr."
        )
    # Runs without a start have no use of any rate.
    if who := _points(result, [row for row in rows if row["untried"] and row["runs"]]):
        told.append(
            f"No rate of tune.lr was tried for {who}: the pretrainings that the trials were to "
            f"begin with diverged. The smallest, {min(rates):g}, was taken."
        )
    return told


def _points(result: StudyResult, rows: Sequence[Record]) -> str:
    """Arms and label counts of rows of the summary."""
    return ", ".join(f"{row['arm']} with {labelled(result.study, row['labels'])}" for row in rows)


def _pretrainings_lost(result: StudyResult) -> list[str]:
    """Pretrainings that diverged, one sentence for all those of an arm."""
    if result.pretrainings.empty:
        return []
    told = []
    for arm, rows in result.pretrainings.groupby("arm", sort=False):
        if count := int(rows["diverged"].sum()):
            told.append(
                f"{count} of {len(rows)} pretrainings of {arm} diverged: a loss term or the "
                "gradient became infinite. Nothing begins with them, and the runs that were to "
                "do so count as diverged. Lower pretrain.lr, for all arms or for this one; the "
                "log of the job names the term and the scans."
            )
    return told


def _diverged(result: StudyResult) -> list[str]:
    told = []
    for row in result.summary.to_dict("records"):
        if not row["diverged"]:
            continue
        without = _without_start(result, row)
        whose = {0: "their loss", row["diverged"]: "the loss of their pretraining"}
        mend = "Lower finetune.lr for all arms, or give lower rates in tune.lr."
        told.append(
            f"{row['diverged']} of {row['runs'] + row['diverged']} runs of {row['arm']} with "
            f"{labelled(result.study, row['labels'])} diverged: "
            f"{whose.get(without, 'their loss or that of their pretraining')} became infinite. "
            "What is told of it is of the others, a selection, so no comparison with it is tested."
            + (f" {mend}" if without < row["diverged"] else "")
        )
    return told


def _without_start(result: StudyResult, row: Record) -> int:
    """How many runs of a row of the summary diverged because their pretraining did."""
    if result.pretrainings.empty:
        return 0
    lost = set(result.pretrainings.loc[result.pretrainings["diverged"].astype(bool), "key"])
    runs = result.runs
    own = runs[(runs["arm"] == row["arm"]) & (runs["labels"] == row["labels"])]
    return int(own["start"].isin(lost).sum())


def ended(row: Record) -> str:
    """Runs of a row of the summary that ended, with marks where some diverged or lost a class."""
    told = [str(row["runs"])]
    if row["diverged"]:
        told = [f"{row['runs']} of {row['runs'] + row['diverged']}", f"{row['diverged']} diverged"]
    if row["lost"]:
        named = ", ".join(map(_class, row["lost_classes"].split(", ")))
        told.append(f"{row['lost']} never found {named}")
    return ", ".join(told)


def rate(row: Record) -> str:
    """Learning rates of a row of the summary, marked where none held in tuning."""
    mark = " (all diverged)" if row["no_rate"] else " (untried)" if row["untried"] else ""
    return f"{row['lr'] or 'default'}{mark}"


def _selection(row: Record) -> str:
    """What a comparison lacks because runs diverged."""
    counts = {row["arm"]: row["diverged"], row["against"]: row["against_diverged"]}
    gone = " and ".join(f"{count:.0f} of {arm}" for arm, count in counts.items() if count)
    return f"runs diverged ({gone}) and those left are a selection"


def _unscored(result: StudyResult) -> list[str]:
    if result.summary.empty:
        return []
    return [
        f"{row['arm']} with {labelled(result.study, row['labels'])}: {row['unscored']} of "
        f"{row['cases'] * row['runs'] // result.study.folds} cases have no "
        f"{result.study.score.name}, because a class was missed or invented there or none is "
        "present. They are in no mean, and gains are over the cases that both arms score."
        for row in result.summary.to_dict("records")
        if row["unscored"]
    ]


def _lost(result: StudyResult) -> list[str]:
    """Runs in which a class was never found, one sentence for all: the arms cannot be compared."""
    if result.runs.empty:
        return []
    runs = result.runs[~result.runs["diverged"].astype(bool)]
    lost = runs[runs["lost"] != ""]
    if lost.empty:
        return []
    classes = ", ".join(f"{_class(name)} in {n}" for name, n in lost_in(lost).items())
    arms = ", ".join(
        f"{arm} {len(rows)} of {(runs['arm'] == arm).sum()}"
        for arm, rows in lost.groupby("arm", sort=False)
    )
    return [
        f"{len(lost)} of {len(runs)} runs never found at least one class (mean Dice below 0.05): "
        f"{classes}; by arm: {arms}. Their fine-tuning did not converge{_fallen(runs)}, so means "
        "and gains of these arms say little. Raise finetune.steps, or tune the learning rate over "
        "several tune.seeds."
    ]


def _class(name: str) -> str:
    """A class in a sentence: one without a name has a number."""
    return f"class {name}" if name.isdecimal() else name


def _fallen(runs: pd.DataFrame) -> str:
    """How far the loss had fallen where a class was never found, and elsewhere."""
    share = (100 * runs["loss_last"] / runs["loss_first"]).groupby(runs["lost"] != "").median()
    if _absent(float(share[True])):
        return ""
    others = f", in the others {share[False]:.0f} %" if False in share else ""
    return f" (their loss was still {share[True]:.0f} % of what it began with{others}; medians)"


def decisions(result: StudyResult) -> list[tuple[str, str]]:
    """What the study was to decide and what came out, a sentence and a verdict each."""
    metric = result.study.score
    told = partial(difference, metric=metric)
    after = result.named_after
    when = "Named beforehand" if after == 0 else f"Named when {after} results were there"
    sentences = []
    for row in result.decided.to_dict("records"):
        who = f"{when}: {row['arm']} against {row['against']} with "
        who += labelled(result.study, row["labels"])
        if _absent(row.get("gain")):
            lacking = f"not tested: {_selection(row)}" if selected(row) else "not run yet"
            sentences.append((f"{who}: {lacking}.", ""))
            continue
        numbers = (
            f"{told(row['gain'])} {metric.unit} (95 % interval "
            f"{interval(row['gain_low'], row['gain_high'], told)}, p {p_value(row['p'])})"
        )
        tested = after == 0 and not _absent(row["p_sequence"])
        found = verdict({**row, "p_holm": row["p_sequence"]}) if tested else ""
        if selected(row):
            outcome = f"not tested: {_selection(row)}"
        elif after:
            outcome = (
                "named after a look, so this p, which nothing corrects, shows nothing by itself"
            )
        elif _absent(row["p_sequence"]):
            outcome = "not tested: this or what was named before it lacks runs that ended"
        elif found == "same" and row["p"] < row["p_sequence"]:
            outcome = "it counts for nothing, since what was named before it was not shown"
        else:
            outcome = {"same": "the difference may be chance"}.get(found, f"shown to be {found}")
        sentences.append((f"{who}: {numbers}; {outcome}.", found))
    return sentences


def best_rows(result: StudyResult) -> list[Record]:
    """The row with the largest gain of each label count, where any arm can be compared."""
    summary = result.summary
    if summary.empty or "gain" not in summary:
        return []
    compared = [row for row in summary.to_dict("records") if not _absent(row["gain"])]
    by_count = ([r for r in compared if r["labels"] == n] for n in result.study.labels)
    return [best_of(rows) for rows in by_count if rows]


def finding(best: Record, study: StudyConfig) -> str:
    """What the best method of a label count gives."""
    metric = study.score
    base = best["mean"] - metric.sign * best["gain"]
    start = "scratch" if best["against_scratch"] else best["against"]
    told = partial(difference, metric=metric)
    verb = "reaches" if best["gain"] > 0 else "reaches only"
    doubt = _doubt(best)
    sentence = (
        f"With {labelled(study, best['labels'])} the best method, {best['arm']}, "
        f"{verb} {metric.name} "
        f"{best['mean']:.3f} against {base:.3f} from {start}: "
        f"{told(best['gain'])} {metric.unit} "
        f"(95 % interval {interval(best['gain_low'], best['gain_high'], told)}, "
        f"adjusted p {p_value(best['p_holm'])}{doubt})."
    )
    count, sign = best["scratch_labels"], best["scratch_labels_is"]
    if _absent(count) or best["gain"] <= 0 or sign == "≤" or count <= best["labels"]:
        return sentence
    more = "more than" if sign == "≥" else "about"
    return f"{sentence} From scratch the same takes {more} {labelled(study, count)}."


def counted(study: StudyConfig) -> str:
    """Heading of a column of label counts: what they are counted in."""
    return "labels" if study.labels_are == "cases" else "labelled patients"


def labelled(study: StudyConfig, count: float) -> str:
    """So many labels, or labelled patients: ``"4 labels"``, ``"1 labelled patient"``."""
    return f"{_few(count)} {counted(study).removesuffix('s' if count == 1 else '')}"


def _doubt(best: Record) -> str:
    if selected(best):
        return f"; not tested, since {_selection(best)}"
    return "; the difference may be chance" if verdict(best) == "same" else ""


def findings(result: StudyResult) -> list[str]:
    """All sentences, for the terminal."""
    named = [sentence for sentence, _ in decisions(result)]
    told = [finding(row, result.study) for row in best_rows(result)]
    rest = missing(result)
    return [*named, *told, *unstable(result), *([] if rest is None else [rest])]


def markdown(result: StudyResult) -> str:
    """The summary as a Markdown table."""
    metric = result.study.score
    told = partial(difference, metric=metric)
    gain = (f"gain, {metric.unit}", "95 % interval", "adjusted p", "scratch needs")
    kind = counted(result.study)
    headings = ("method", kind, "runs", metric.name, "95 % interval", *gain)
    lines = [_line(headings), _line(["---"] + ["--:"] * (len(headings) - 1))]
    for row in result.summary.to_dict("records"):
        cells = (
            str(row["arm"]).replace("|", "\\|"),
            str(row["labels"]),
            ended(row),
            number(row["mean"]),
            interval(row["low"], row["high"]),
            told(row.get("gain")),
            interval(row.get("gain_low"), row.get("gain_high"), told),
            p_value(row["p_holm"]),
            labels_needed(row),
        )
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
