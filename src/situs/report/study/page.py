"""The study's page: one HTML file that opens from disk, in the dress of the other pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from situs.evaluation.measures import Metric
from situs.files import write_file
from situs.report import page
from situs.report.study.figures import efficiency, gains
from situs.report.study.wording import (
    best_rows,
    counted,
    decisions,
    difference,
    duration,
    ended,
    finding,
    interval,
    labels_needed,
    markdown,
    missing,
    number,
    p_value,
    rate,
    unstable,
    verdict,
)
from situs.scans.aliases import Names
from situs.scans.refusals import REASONS
from situs.studies.config import StudyConfig
from situs.studies.graph import JobGraph, StudyCases
from situs.studies.results import StudyResult
from situs.studies.run import carry_out
from situs.studies.scheduler import WORKER, Event

Record = dict[Any, Any]
# What stands behind the source of a refused scan.
_REASON = re.compile(rf": (?:{'|'.join(REASONS)})(?=: |$)")


def study(
    config: Mapping[str, Any] | str | Path | StudyConfig,
    *,
    overrides: Sequence[str] = (),
    report: Callable[[Event, int, int], None] | None = None,
    only_report: bool = False,
    join: bool = False,
    worker: Sequence[str] = WORKER,
    names: bool = False,
) -> StudyResult:
    """Carry out what is missing of a study, compare what is there, and write the page.

    Args:
        config: A mapping, the path of a YAML file, or a :class:`situs.studies.StudyConfig`.
        overrides: ``key.path=value`` strings.
        report: Called with each event, the number of finished jobs and of all jobs.
        only_report: Run nothing; compare what has been finished so far.
        join: Work beside other processes on the same study, here or on other machines.
        worker: Command line of a worker process.
        names: Show names of scans and cases in tables and page; by default short ids, which
            ``names.csv`` in the study's folder tells apart.

    Returns:
        The tables; also written to ``out`` as CSV, Markdown and one HTML page.

    Raises:
        ConfigError: If the configuration, or that of any of its runs, cannot be used.
        LeakError: If test scans would be known from training.
        RunError: If another process is at work in ``out`` and ``join`` was not said.
    """
    result, graph = carry_out(
        config,
        overrides=overrides,
        report=report,
        only_report=only_report,
        join=join,
        worker=worker,
        names=names,
    )
    write_file(result.study.out / "summary.md", markdown(result))
    return replace(result, page=write_page(result, graph, names=names))


def write_page(result: StudyResult, graph: JobGraph, *, names: bool = False) -> Path:
    """Write ``index.html`` into the study's folder."""
    script = Markup(page.text_asset("report.js"))
    text = page.render("study.html.j2", s=view(result, graph, Names(shown=names)), js=script)
    file = result.study.out / "index.html"
    write_file(file, text)
    return file


def view(result: StudyResult, graph: JobGraph, names: Names) -> dict[str, Any]:
    """Everything that the template places, as text."""
    study, metric = result.study, result.study.score
    folds = [fold.cases for fold in graph.folds]
    return {
        "name": study.name,
        "metric": metric.name,
        "counted": counted(study),
        "progress": f"{result.done} of {result.expected} jobs done",
        "extent": _extent(study, folds),
        "findings": _findings(result),
        "unstable": unstable(result),
        "failed": result.failed,
        "tiles": _tiles(result),
        "result_headings": _result_headings(study),
        "decides": bool(study.decides),
        "beforehand": bool(study.decides) and result.named_after == 0,
        "results": [_result_row(row, metric) for row in result.summary.to_dict("records")],
        "rival_headings": _rival_headings(study),
        "rivals": [_rival_row(row, metric) for row in result.rivals.to_dict("records")],
        "cost_headings": _COST_HEADINGS,
        "costs": [_cost_row(row) for row in result.pretrainings.to_dict("records")],
        "sharing": _sharing(study),
        "learned": [
            {"arm": row["arm"], "scores": _scores(row), "explained": row["explained"]}
            for row in result.pretrainings.to_dict("records")
        ],
        "run_headings": _run_headings(study),
        "runs": [_run_row(row) for row in result.runs.to_dict("records")],
        "tuning_headings": _run_headings(study),
        "tuning": [_run_row(row) for row in result.tuning.to_dict("records")],
        "test_cases": sum(len(cases.split.test) for cases in folds),
        "validation_cases": _from_to(len(cases.split.validation) for cases in folds),
        "fairness": _fairness(result, folds),
        "refused": [_refused(line, names) for line in result.refused],
        "configuration": page.settings(study.model_dump(mode="json"), names),
    }


_COST_HEADINGS = (
    "pretraining",
    "seed",
    "time",
    "CPU time",
    "memory",
    "GPU memory",
    "energy",
    "report",
)


def _result_headings(study: StudyConfig) -> tuple[str, ...]:
    metric = study.score
    gain = (f"gain, {metric.unit}", "95 % interval", "p", "adjusted p", "scratch needs")
    kind = counted(study)
    return ("method", kind, "runs", metric.name, "95 % interval", *gain, "learning rate")


def _rival_headings(study: StudyConfig) -> tuple[str, ...]:
    ahead = f"ahead, {study.score.unit}"
    return ("best", counted(study), "beside", ahead, "95 % interval", "adjusted p")


def _rival_row(row: Record, metric: Metric) -> dict[str, Any]:
    told = partial(difference, metric=metric)
    ahead = interval(row["gain_low"], row["gain_high"], told)
    cells = (row["arm"], row["labels"], row["against"], told(row["gain"]), ahead)
    return {"cells": (*cells, p_value(row["p_holm"])), "verdict": verdict(row), "verdict_at": 3}


def _result_row(row: Record, metric: Metric) -> dict[str, Any]:
    told = partial(difference, metric=metric)
    cells = (
        row["arm"],
        row["labels"],
        ended(row).replace(", ", ", \u200b"),  # where the cell may break
        number(row["mean"]),
        interval(row["low"], row["high"]),
        told(row.get("gain")),
        interval(row.get("gain_low"), row.get("gain_high"), told),
        p_value(row["p"]),
        p_value(row["p_holm"]),
        labels_needed(row),
        rate(row),
    )
    return {"cells": cells, "verdict": verdict(row), "verdict_at": 5}


def _cost_row(row: Record) -> dict[str, Any]:
    cells = (
        row["arm"],
        _draw(row),
        duration(row["seconds"]),
        duration(row["cpu_seconds"]),
        _with_unit(row["peak_memory_mib"], 0, "MiB"),
        _with_unit(row["gpu_memory_mib"], 0, "MiB"),
        _with_unit(row["energy_kj"], 1, "kJ"),
    )
    file = "" if row["diverged"] else "run/report/index.html"
    return {"cells": cells, "folder": row["folder"], "file": file}


def _run_headings(study: StudyConfig) -> tuple[str, ...]:
    score = study.score.name
    return ("method", counted(study), "seed", score, "loss", "learning rate", "time", "folder")


def _draw(row: Record) -> str:
    """Seed of a run, and its fold where there are several."""
    return f"{row['seed']}, fold {row['fold']}" if "fold" in row else str(row["seed"])


def _run_row(row: Record) -> dict[str, Any]:
    cells = (
        row["arm"],
        row["labels"],
        _draw(row),
        "diverged" if row["diverged"] else number(row["score"]),
        f"{number(row['loss_first'], 2)} to {number(row['loss_last'], 2)}",
        "default" if row["lr"] is None else f"{row['lr']:g}",
        duration(row["seconds"]),
    )
    return {"cells": cells, "folder": row["folder"], "file": ""}


def _tiles(result: StudyResult) -> list[Any]:
    if result.summary.empty:
        return []
    arms = [(arm.title, "init" if arm.init else arm.method) for arm in result.study.arms]
    metric = result.study.score
    drawn = [
        efficiency(result.summary, metric, arms, result.study.labels_are),
        gains(result.summary, metric, arms, result.study.labels_are),
    ]
    return [tile for tile in drawn if tile is not None]


def _findings(result: StudyResult) -> list[dict[str, str]]:
    told = [{"sentence": sentence, "verdict": found} for sentence, found in decisions(result)]
    told += [
        {"sentence": finding(row, result.study), "verdict": verdict(row)}
        for row in best_rows(result)
    ]
    if (sentence := missing(result)) is not None:
        told.append({"sentence": sentence, "verdict": ""})
    return told


def _refused(line: str, names: Names) -> str:
    """``source: reason: detail`` of a job's result, the source called what pages call it."""
    found = _REASON.search(line)
    end = len(line) if found is None else found.start()
    return names.called(line[:end]) + line[end:]


def _extent(study: StudyConfig, folds: Sequence[StudyCases]) -> str:
    several = f" in {len(folds)} folds" if len(folds) > 1 else ""
    tested = sum(len(cases.split.test) for cases in folds)
    return (
        f"{_count(study.arms, 'way')} to begin · {_listed(study.labels)} labelled "
        f"{study.labels_are} · {_count(study.seeds, 'seed')} · {tested} test cases{several}"
    )


def _sharing(study: StudyConfig) -> str:
    return (
        "Each pretraining serves every label count of its seed."
        if study.pretrain_per_seed
        else "Each pretraining is paid once and serves every label count and seed."
    )


def _fairness(result: StudyResult, folds: Sequence[StudyCases]) -> list[str]:
    study = result.study
    test, validation, train, images = (
        _from_to(counts)
        for counts in zip(
            *(
                (*map(len, (c.split.test, c.split.validation, c.split.train)), len(c.unlabelled))
                for c in folds
            ),
            strict=True,
        )
    )
    joined = (
        f"{len(folds)} folds, no case tested in two; what is told is over the test cases of all, "
        "and the draws of a seed in all folds count as one. In each, "
        if len(folds) > 1
        else ""
    )
    alike = "refused" if study.near_duplicates == "refuse" else "kept in one part"
    return [
        f"{joined}{test} cases are tested, {validation} serve for tuning, and "
        f"training cases are drawn from {train}. Splits are by patient and fixed by "
        f"seed {study.split_seed}. Scans of different patients that are (nearly) the same are "
        f"{alike}: a correlation of ranks of {study.duplicate_correlation:g} or more.",
        f"Pretraining may use {images} images, none of a tested patient; "
        f"{len(result.refused)} scans of them were refused.",
        "All arms share backbone, preprocessing, steps and optimiser budget unless the "
        "configuration below says otherwise.",
        f"Fingerprint of the labelled data: {folds[0].fingerprint}. Made with situs "
        f"{', '.join(result.versions) or 'of no known version'}.",
    ]


def _scores(row: Record) -> str:
    told = [f"{name} {number(value)}" for name, value in row["scores"].items()]
    return "diverged" if row["diverged"] else ", ".join(told)


def _with_unit(value: Any, digits: int, unit: str) -> str:
    text = number(value, digits)
    return text if text == "–" else f"{text} {unit}"


def _from_to(counts: Iterable[int]) -> str:
    """A number, or the least and the most of several."""
    least, *more = sorted(set(counts))
    return f"{least} to {more[-1]}" if more else str(least)


def _count(things: Sequence[Any], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _listed(values: Sequence[int]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}" if first else last
