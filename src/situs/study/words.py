"""A study's numbers as people write them: in tables, in sentences, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from situs.study.results import StudyResult

_METRICS: Mapping[str, str] = {
    "dice": "Dice",
    "surface_dice": "surface Dice",
    "hd95_mm": "HD95 (mm)",
    "correct": "accuracy",
}


def metric_name(metric: str) -> str:
    """A metric's name for people."""
    return _METRICS.get(metric, metric)


def number(value: Any, digits: int = 3, sign: bool = False) -> str:
    """A number for a table; a dash where there is none."""
    if _absent(value):
        return "–"
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def p_value(value: Any) -> str:
    """A p value with two digits, or below what is worth telling."""
    if _absent(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def duration(seconds: Any) -> str:
    """Seconds as a person says them."""
    if _absent(seconds):
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def labels_needed(row: Mapping[Any, Any]) -> str:
    """How many labels scratch needs for the score of a row of the summary."""
    if _absent(row["scratch_labels"]):
        return "–"
    sign = "" if row["scratch_labels_is"] == "=" else f"{row['scratch_labels_is']} "
    return f"{sign}{row['scratch_labels']:.0f}"


def findings(result: StudyResult) -> list[str]:
    """What the study says, one sentence a label count and one on what is missing."""
    study, summary = result.study, result.summary
    missing = result.expected - result.done
    told = []
    if missing:
        told = [f"{missing} of {result.expected} jobs are still to be done; numbers may change."]
    if summary.empty or "gain" not in summary:
        return [*told, "No method can be compared with training from scratch yet."]
    for labels in study.labels:
        rows = summary[(summary["labels"] == labels) & summary["gain"].notna()]
        if not rows.empty:
            best = max(rows.to_dict("records"), key=lambda row: row["gain"])
            told.append(_finding(best, metric_name(study.score)))
    return told


def markdown(result: StudyResult) -> str:
    """The summary as a Markdown table."""
    metric = metric_name(result.study.score)
    lines = [
        f"| method | labels | {metric} | 95 % interval | gain, points | 95 % interval "
        "| adjusted p | scratch needs | seeds |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in result.summary.to_dict("records"):
        gains = [number(100 * row.get(c, math.nan), 1, sign=True) for c in _GAINS]
        cells = [
            str(row["arm"]).replace("|", "\\|"),
            str(row["labels"]),
            number(row["mean"]),
            f"{number(row['low'])} – {number(row['high'])}",
            gains[0],
            "–" if gains[1] == "–" else f"{gains[1]} to {gains[2]}",
            p_value(row["p_holm"]),
            labels_needed(row),
            str(row["runs"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


_GAINS = ("gain", "gain_low", "gain_high")


def _finding(best: Mapping[Any, Any], metric: str) -> str:
    base = best["mean"] - best["gain"]
    verb = "reaches" if best["gain"] > 0 else "reaches only"
    doubt = "" if best["p_holm"] < 0.05 else "; the difference may be chance"
    sentence = (
        f"With {best['labels']} labels the best method, {best['arm']}, {verb} {metric} "
        f"{best['mean']:.3f} against {base:.3f} from scratch: {100 * best['gain']:+.1f} points "
        f"(95 % interval {100 * best['gain_low']:+.1f} to {100 * best['gain_high']:+.1f}, "
        f"adjusted p {p_value(best['p_holm'])}{doubt})."
    )
    count, sign = best["scratch_labels"], best["scratch_labels_is"]
    if _absent(count) or best["gain"] <= 0 or sign == "≤" or count <= best["labels"]:
        return sentence
    more = "more than" if sign == "≥" else "about"
    return f"{sentence} From scratch the same takes {more} {count:.0f} labels."


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
