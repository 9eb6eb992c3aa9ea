"""What a notebook shows of an observation, a run and a scan.

The classes themselves know nothing of pages. ``import situs`` inside IPython or Jupyter tells it
to ask :func:`html` (``%load_ext situs`` does where situs was imported before).
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np

from situs import text
from situs.observation import Observation, Volume
from situs.report import figures, page, style, summary
from situs.report.figures import data, training
from situs.report.folder import read_run
from situs.report.report import score_columns
from situs.report.sections import score_rows
from situs.scans.scan import Scan
from situs.training.run import Run


@singledispatch
def html(item: object) -> str:
    """A fragment of HTML, styles and figures within, everything from outside escaped.

    Args:
        item: An :class:`Observation`, a :class:`Run` or a :class:`Scan`.

    Raises:
        TypeError: For anything else.
    """
    raise TypeError(f"situs has no display for {type(item).__name__}")


@html.register
def _observation(observation: Observation) -> str:
    """Scores as a table, and the first figure of each sub-task; the others fold out."""
    sections = [
        {
            "title": text.printable(section.title),
            "explanation": text.printable(section.explanation),
            "rows": score_rows(section.scores),
            "first": figures.draw(section.panels[0]) if section.panels else [],
            "others": [
                (text.printable(panel.title), figures.draw(panel)) for panel in section.panels[1:3]
            ],
        }
        for section in observation.sections
    ]
    return _fragment(
        title=f"{observation.method} at step {observation.step}",
        sentences=[],
        warnings=[text.printable(w) for w in observation.warnings],
        sections=sections,
        tiles=[],
    )


@html.register
def _run(given: Run) -> str:
    """What the run learned in words, with its curves."""
    run = read_run(given.path)
    columns = {run.name: run.metrics}
    return _fragment(
        title=summary.headline(run),
        sentences=summary.sentences(run),
        warnings=summary.warnings(run),
        sections=[
            {
                "title": text.printable(section.title),
                "explanation": text.printable(section.explanation),
                "rows": score_rows(section.scores),
                "first": [],
                "others": [],
            }
            for observation in run.latest
            for section in observation.sections
            if section.scores
        ],
        tiles=[
            *training.score_tiles(columns, score_columns(run)),
            *training.loss_tiles(columns)[:1],
        ],
    )


@html.register
def _scan(scan: Scan) -> str:
    """Shape, spacing and modality, and the middle slice in three orientations."""
    shape = " × ".join(map(str, scan.shape))
    spacing = " × ".join(f"{s:.3g}" for s in scan.spacing)
    channels = f", {len(scan.array)} channels" if len(scan.array) > 1 else ""
    volume = Volume(np.asarray(scan.array[0], np.float32), scan.affine, "scan")
    return _fragment(
        title=f"{scan.modality} scan",
        sentences=[f"{shape} voxels of {spacing} mm{channels}; {scan.provenance.format}"],
        warnings=[],
        sections=[],
        tiles=data.thumbnail_tiles(volume),
    )


def _fragment(**context: Any) -> str:
    light = "".join(f"--{tone.css}:{tone.light};" for tone in style.TONES.values())
    dark = "".join(f"--{tone.css}:{tone.dark};" for tone in style.TONES.values())
    return page.render("notebook.html.j2", light=light, dark=dark, **context)
