"""``situs study``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from situs.cli import app
from situs.cli.console import Json, Names, Quiet, out, print_json
from situs.cli.settings import Set


@app.command()
def study(
    config: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="What to compare.")],
    settings: Set = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and say what would be run.")
    ] = False,
    only_report: Annotated[
        bool, typer.Option("--only-report", help="Run nothing; report what is finished.")
    ] = False,
    join: Annotated[
        bool,
        typer.Option("--join", help="Help others with this study, here or on other machines."),
    ] = False,
    submit: Annotated[
        int | None,
        typer.Option(min=1, help="Queue so many SLURM jobs that join, and leave (extra 'slurm')."),
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option("--slurm", help="Of --submit: name=value as for sbatch; may be repeated."),
    ] = None,
    names: Names = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare methods, label counts and seeds on one budget; run what is missing.

    Example: `situs study examples/hippocampus.yaml --set processes=2`

    A second call goes on where the first one stopped. Exit code 1 if a job failed.
    """
    from situs.report.study import study as run_study
    from situs.studies import describe

    if dry_run:
        graph, folders = describe(config, overrides=settings or ())
        _print_jobs(graph, folders, json)
        return
    if submit is not None:
        from situs.studies.submit import submit as queue

        jobs = queue(config, submit, overrides=settings or (), parameters=slurm or ())
        out.print(f"queued: {', '.join(jobs)}", markup=False, highlight=False)
        return
    result = run_study(
        config,
        overrides=settings or (),
        report=None if quiet or json else _print_event,
        only_report=only_report,
        join=join,
        names=names,
    )
    if json:
        print_json(
            {
                "summary": result.summary.to_dict("records"),
                "done": result.done,
                "expected": result.expected,
                "failed": result.failed,
                "page": result.page,
            }
        )
    else:
        _print_summary(result)
    if result.failed:
        raise typer.Exit(1)


def _print_event(event: Any, done: int, total: int) -> None:
    from rich.markup import escape

    from situs.text import duration

    what = escape(f"{event.job.kind} {event.job.title}")
    if event.what == "started":
        out.print(f"[dim]\\[{done}/{total}][/] {what} …", highlight=False)
    elif event.what == "done":
        out.print(f"\\[{done}/{total}] {what}: done in {duration(event.seconds)}", highlight=False)
    else:
        out.print(
            f"[bold red]{what} failed[/], see {escape(str(event.folder / 'log.txt'))}",
            highlight=False,
            soft_wrap=True,
        )


def _print_jobs(graph: Any, folders: Any, json: bool) -> None:
    from situs.report.study.wording import uncompared, unlike_views

    jobs = graph.jobs()
    missing = [job for job in jobs if folders.result(job) is None]
    facts = {
        "jobs": graph.expected(),
        "done": len(jobs) - len(missing),
        "next": [f"{job.kind} {job.title}".strip() for job in missing],
        "folds": len(graph.folds),
        "test": sum(len(fold.cases.split.test) for fold in graph.folds),
        "validation": len(graph.cases.split.validation),
        "pool": len(graph.cases.split.train),
        "unlabelled": len(graph.cases.unlabelled),
        "uncompared": uncompared(graph.study),
        "unlike_views": unlike_views(graph.study),
    }
    if json:
        print_json(facts)
        return
    several = f" cases in {facts['folds']} folds; in the first" if facts["folds"] > 1 else ""
    out.print(f"{facts['jobs']} jobs, {facts['done']} done", highlight=False)
    out.print(
        f"{facts['test']} test{several}, {facts['validation']} validation and {facts['pool']} pool "
        f"cases; {facts['unlabelled']} scans to pretrain on",
        highlight=False,
    )
    for name in facts["next"]:
        out.print(f"  {name}", highlight=False, markup=False)
    for sentence in (*facts["uncompared"], *facts["unlike_views"]):
        out.print(sentence, highlight=False, markup=False)


def _print_summary(result: Any) -> None:
    from rich.markup import escape
    from rich.table import Table

    from situs.report.study.wording import (
        counted,
        difference,
        failures,
        findings,
        interval,
        number,
        p_value,
    )

    metric = result.study.score
    table = Table(title=escape(result.study.name))
    for name in (
        "method",
        counted(result.study),
        metric.name,
        "95 % interval",
        "gain",
        "adjusted p",
    ):
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in result.summary.to_dict("records"):
        table.add_row(
            escape(row["arm"]),
            str(row["labels"]),
            number(row["mean"]),
            interval(row["low"], row["high"]),
            difference(row.get("gain"), metric),
            p_value(row["p_holm"]),
        )
    out.print(table)
    for sentence in findings(result):
        out.print(sentence, highlight=False, markup=False)
    for sentence in failures(result):  # names files
        out.print(sentence, highlight=False, markup=False, soft_wrap=True)
    out.print(f"page: {result.page}", soft_wrap=True, highlight=False, markup=False)
