"""The study's page: one HTML file that opens from disk."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader

from situs import __version__
from situs.config import dump_yaml
from situs.observe import style
from situs.study.config import SCRATCH
from situs.study.figures import efficiency, gains
from situs.study.plan import StudyCases
from situs.study.results import StudyResult
from situs.study.words import duration, findings, labels_needed, metric_name, number, p_value
from situs.training.run import write_text


def write_page(result: StudyResult, cases: StudyCases) -> Path:
    """Write ``index.html`` into the study's folder."""
    environment = Environment(
        loader=PackageLoader("situs.study"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "p": p_value,
        "duration": duration,
        "needs": labels_needed,
    }
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
        metric=metric_name(study.score),
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


def _records(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    return frame.to_dict("records")
