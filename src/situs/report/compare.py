"""``write_comparison``: several runs side by side, in the same dress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from situs import text
from situs.errors import RunError
from situs.files import check_writable, write_file
from situs.observation import Panel, Score, iter_panels, verdicts
from situs.report import figures, page, summary
from situs.report.figures import training
from situs.report.folder import RunFolder, read_run
from situs.report.report import score_columns
from situs.report.transfers import compare
from situs.scans.aliases import Names

# Settings that always differ and say nothing.
_OWN = {"out"}


def write_comparison(runs: Sequence[str | Path], out: str | Path, *, names: bool = False) -> Path:
    """Write one page that holds several runs against each other.

    Args:
        runs: Run folders, at least two.
        out: The HTML file, or a folder for ``index.html``.
        names: Show names of scans and cases; by default short ids, which ``names.csv`` in each
            run folder tells apart.

    Raises:
        RunError: If there are fewer than two runs, or one cannot be read.
        SitusError: If ``out`` cannot be written.
    """
    if len(runs) < 2:
        raise RunError("a comparison needs two runs or more")
    named = _named([read_run(run, names=names) for run in runs])
    out = Path(out)
    target = out if out.suffix == ".html" else out / "index.html"
    check_writable(target, folder=False)
    columns = {name: run.metrics for name, run in named.items()}
    scores: dict[str, Score] = {}
    for run in named.values():
        scores |= {k: v for k, v in score_columns(run).items() if k not in scores}
    markup = page.render(
        "compare.html.j2",
        names=list(named),
        runs=[_column(run) for run in named.values()],
        scores=score_table(named),
        transfers=_transfers(named),
        settings=differing_settings(
            {name: run.config for name, run in named.items()}, Names(shown=names)
        ),
        score_curves=training.score_tiles(columns, scores),
        losses=training.loss_tiles(columns),
        panels=_panels(named),
        js=Markup(page.text_asset("report.js")),
    )
    write_file(target, markup)
    for run in named.values():
        run.names.save(run.path)
    return target


def score_table(named: Mapping[str, RunFolder]) -> list[dict[str, Any]]:
    """A row a score: its value in every run, and which run has the best."""
    by_run = {name: _all_scores(run) for name, run in named.items()}
    keys = list(dict.fromkeys(key for scores in by_run.values() for key in scores))
    rows = []
    for key in keys:
        found = {name: scores[key] for name, scores in by_run.items() if key in scores}
        one = next(iter(found.values()))
        pick = min if one.better == "lower" else max
        best = pick((s.value for s in found.values()), default=None) if len(found) > 1 else None
        rows.append(
            {
                "label": verdicts.label(one),
                "direction": verdicts.direction(one),
                "cells": [_cell(found.get(name), best) for name in named],
            }
        )
    return rows


def _cell(score: Score | None, best: float | None) -> dict[str, Any]:
    if score is None:
        absent = {"levels": (), "verdict": "unknown", "words": "not observed", "explained": ""}
        return {"text": "–", "best": False, **absent}
    return {
        "text": text.quantity(score.value, score.unit),
        "best": score.value == best,
        "levels": summary.levels(score),
        "verdict": verdicts.mark(score),
        "words": verdicts.judged(score),
        "explained": verdicts.explanation(score) if verdicts.told_first(score) else "",
    }


def differing_settings(
    configs: Mapping[str, Mapping[str, Any]], names: Names
) -> list[tuple[str, list[str]]]:
    """Dotted keys whose values differ, with the value in every run."""
    flat = {name: dict(_flattened(config)) for name, config in configs.items()}
    keys = list(dict.fromkeys(key for values in flat.values() for key in values))
    rows = []
    for key in keys:
        values = [flat[name].get(key, "–") for name in configs]
        if key not in _OWN and len(set(map(str, values))) > 1:
            shown = text.without_folders(values, key.rpartition(".")[2], names.called)
            rows.append((text.printable(key), [text.printable(_said(v)) for v in shown]))
    return rows


def _said(value: Any) -> str:
    """A setting as a person would write it, not as Python prints it."""
    if value is None or value in ("", [], ()):
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_said(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value))
    return str(value)


def _flattened(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            found += _flattened(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def _named(runs: Sequence[RunFolder]) -> dict[str, RunFolder]:
    """Runs under short names that differ: the folder's, with its parent where that is needed."""
    names = [text.printable(run.name) for run in runs]
    if len(set(names)) < len(names):
        names = [text.printable("/".join(run.path.resolve().parts[-2:])) for run in runs]
    if len(set(names)) < len(names):
        names = [f"{n + 1}: {name}" for n, name in enumerate(names)]
    return dict(zip(names, runs, strict=True))


def _all_scores(run: RunFolder) -> dict[tuple[str, str], Score]:
    return {
        (observation.method, name): score
        for observation in run.latest
        for name, score in observation.scores.items()
    }


def _column(run: RunFolder) -> dict[str, Any]:
    return {
        "headline": summary.headline(run),
        "sentences": summary.sentences(run),
        "warnings": summary.warnings(run),
        "status": text.printable(run.record.status),
        "method": text.printable(run.method),
    }


def _transfers(named: Mapping[str, RunFolder]) -> list[dict[str, str]]:
    return [
        {
            "run": name,
            "sentence": comparison.sentence,
            "verdict": comparison.verdict,
        }
        for name, run in named.items()
        for comparison in compare(run.transfers)
    ]


def _panels(named: Mapping[str, RunFolder]) -> list[dict[str, Any]]:
    """The first panel of each kind and sub-task that at least two runs have, side by side."""
    found: dict[tuple[str, str, str], dict[str, Panel]] = {}
    for name, run in named.items():
        # Of several fine-tunings, one that began from this run speaks for it.
        tuned = sorted(run.transfers, key=lambda transfer: transfer.result.scratch)
        for observation in (*run.latest, *(o for t in tuned for o in t.observations)):
            for section, panel in iter_panels(observation):
                key = (section.title, panel.kind, getattr(panel, "style", ""))
                found.setdefault(key, {}).setdefault(name, panel)
    return [
        _side_by_side(section, {n: _anonymous(named[n], p) for n, p in of_runs.items()})
        for (section, *_), of_runs in found.items()
        if len(of_runs) > 1
    ]


def _anonymous(run: RunFolder, panel: Panel) -> Panel:
    """A panel in whose words scans and cases are called what the run's page calls them."""
    said = {field: run.names.within(getattr(panel, field)) for field in ("title", "caption")}
    return replace(panel, **said)


def _side_by_side(section: str, of_runs: Mapping[str, Panel]) -> dict[str, Any]:
    """Panels of several runs; what their titles share heads them, the rest heads each."""
    titles = {panel.title for panel in of_runs.values()}
    return {
        "title": text.printable(f"{section}: {titles.pop()}" if len(titles) == 1 else section),
        "runs": [
            (text.printable(f"{name}: {panel.title}" if titles else name), figures.draw(panel))
            for name, panel in of_runs.items()
        ],
    }
