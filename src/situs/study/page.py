"""The study's page: one HTML file that opens from disk."""

from __future__ import annotations

import math
import platform
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader

from situs import __version__
from situs.config import dump_yaml
from situs.observe import style
from situs.study.config import SCRATCH
from situs.study.figures import efficiency, gains, words
from situs.study.plan import StudyCases
from situs.study.results import StudyResult
from situs.training.run import write_text


def write_page(result: StudyResult, cases: StudyCases) -> Path:
    """Write ``index.html`` into the study's folder."""
    environment = Environment(
        loader=PackageLoader("situs.study"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "p": p_value, "duration": duration}
    study = result.study
    arms = [(arm.title, arm.method) for arm in study.arms]
    tiles = []
    if not result.summary.empty:
        tiles = [
            efficiency(result.summary, study.score, arms),
            gains(result.summary, study.score, arms),
        ]
    text = environment.get_template("study.html").render(
        study=study,
        colours=style.css_variables(),
        tiles=[t for t in tiles if t is not None],
        findings=findings(result),
        metric=words(study.score),
        summary=_records(result.summary),
        runs=_records(result.runs),
        pretrainings=_records(result.pretrainings),
        tuning=_records(result.tuning),
        result=result,
        split=cases.split,
        fingerprint=cases.fingerprint,
        unlabelled=len(cases.unlabelled),
        version=__version__,
        machine=f"{platform.machine()}, {platform.system()}",
        scratch=SCRATCH,
        configuration=dump_yaml(study),
    )
    page = study.out / "index.html"
    write_text(page, text)
    return page


def findings(result: StudyResult) -> list[str]:
    """What the study says, one sentence a label count and one on what is missing."""
    study, summary, metric = result.study, result.summary, words(result.study.score)
    if result.done < result.expected:
        missing = result.expected - result.done
        told = [f"{missing} of {result.expected} jobs are still to be done; numbers may change."]
    else:
        told = []
    if summary.empty or "gain" not in summary:
        return [*told, "No method can be compared with training from scratch yet."]
    for labels in study.labels:
        rows = summary[(summary["labels"] == labels) & summary["gain"].notna()]
        if rows.empty:
            continue
        best = max(rows.to_dict("records"), key=lambda row: row["gain"])
        base = best["mean"] - best["gain"]
        sure = best["p_holm"] < 0.05
        verb = "reaches" if best["gain"] > 0 else "reaches only"
        told.append(
            f"With {labels} labels the best method, {best['arm']}, {verb} {metric} "
            f"{best['mean']:.3f} against {base:.3f} from scratch: {100 * best['gain']:+.1f} points "
            f"(95 % interval {100 * best['gain_low']:+.1f} to {100 * best['gain_high']:+.1f}, "
            f"adjusted p {p_value(best['p_holm'])}"
            + (")." if sure else "; the difference may be chance).")
            + _saved(best)
        )
    return told


def number(value: Any, digits: int = 3, sign: bool = False) -> str:
    """A number for a table; a dash where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def p_value(value: Any) -> str:
    """A p value with two digits, or below what is worth telling."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def duration(seconds: Any) -> str:
    """Seconds as a person says them."""
    if seconds is None or (isinstance(seconds, float) and math.isnan(seconds)):
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _saved(row: dict[Any, Any]) -> str:
    count, sign, labels = row["scratch_labels"], row["scratch_labels_is"], row["labels"]
    if math.isnan(count) or row["gain"] <= 0 or sign == "≤" or count <= labels:
        return ""
    more = "more than" if sign == "≥" else "about"
    return f" From scratch the same takes {more} {count:.0f} labels."


def _records(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    return frame.to_dict("records")
