"""``situs plan``, ``situs studies`` and ``situs demo-studies``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from situs.cli import app
from situs.cli.console import (
    Json,
    Quiet,
    bar,
    err,
    out,
    out_file,
    out_folder,
    print_json,
    some_there,
)
from situs.cli.settings import completes
from situs.cli.tables import planned
from situs.errors import SitusError

if TYPE_CHECKING:
    from situs.catalog.study_table import StudyRow
    from situs.planning import RoleSummary
    from situs.planning.planner import RolePlan


_SHOWN = 5  # of planes that could not be planned for one reason


@app.command()
def plan(
    run: Annotated[Path, typer.Argument(help="A run of 'situs pretrain --method planes'.")],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="A store, a catalog or scans; the run's held-out scans by default."),
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Plane to plan; may be repeated. All by default.")
    ] = None,
    views: Annotated[int, typer.Option(min=2, help="Slices looked at in each study.")] = 12,
    seed: Annotated[int, typer.Option(help="Of the slices of virtual studies.")] = 0,
    file: Annotated[
        Path | None,
        typer.Option("--out", callback=out_file, help="Write the planes to this JSON file."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Plan target planes from the lines that the network sees in other views.

    Example: `situs plan runs/planes new-study/ --target 4ch --out planes.json`

    Angle and distance to the acquired plane are given where the study has it. Exit code 1 says
    that some planes could not be planned; each with the reason.
    """
    from situs.planning import plan as run_planning
    from situs.planning import summarise

    with bar("planning", quiet or json) as tell:
        plans = run_planning(run, paths or [], target or [], views, seed, tell)
    documents, summary = [one.as_dict() for one in plans], summarise(plans)
    if file is not None:
        from situs.files import write_json

        write_json(file, documents)
    if json:
        print_json({"planes": documents, "summary": [row._asdict() for row in summary]})
    else:
        _print_plans(plans, summary, quiet)
    raise typer.Exit(int(any(one.plane is None for one in plans)))


@app.command()
def studies(
    paths: Annotated[
        list[Path], typer.Argument(callback=some_there, help="A catalog, or DICOM folders.")
    ],
    rules: Annotated[
        str,
        typer.Option(
            autocompletion=completes("heart", "knee", "orthogonal"),
            help="heart, knee, orthogonal, or a YAML file of one's own.",
        ),
    ] = "orthogonal",
    json: Json = False,
) -> None:
    """Show the roles of each study's series: what was recognised and what was not.

    Example: `situs studies heart-data/ --rules heart`

    Exit code 0 where every study has two roles or more, 1 where some have not, 2 where none has.
    """
    from situs.catalog.studies import load_rules
    from situs.catalog.study_table import study_table
    from situs.planning import open_catalog

    accepted = open_catalog(paths).accepted
    alone = sum(not entry.study for entry in accepted)
    rows = study_table([entry for entry in accepted if entry.study], load_rules(rules))
    if not rows:
        where = ", ".join(map(str, paths))
        why = f"only {_scans(alone)} of no study (formats other than DICOM name none)"
        if not alone:
            why = "no DICOM file, or all of them were refused; 'situs scan' says more"
        raise SitusError(f"no study in {where}: {why}")
    roles: dict[str, set[str]] = {}
    for row in rows:
        roles.setdefault(row.study, set()).update({row.recognised.role} - {""})
    usable = sum(len(names) >= 2 for names in roles.values())
    if json:
        print_json([row._asdict() | {"recognised": row.recognised._asdict()} for row in rows])
    else:
        out.print(_studies_table(rows))
        counted = "1 study" if len(roles) == 1 else f"{len(roles)} studies"
        out.print(f"{counted}, {usable} with two roles or more ({escape(rules)} rules)")
    if alone:
        words = f"left out: {_scans(alone)} of no study (formats other than DICOM name none)"
        err.print(words, highlight=False, soft_wrap=True)
    raise typer.Exit(2 if not usable else int(usable < len(roles)))


@app.command("demo-studies")
def demo_studies(
    folder: Annotated[
        Path, typer.Argument(callback=out_folder, help="Where the DICOM studies are written.")
    ],
    kind: Annotated[
        str, typer.Option(autocompletion=completes("heart", "knee"), help="heart or knee.")
    ] = "heart",
    subjects: Annotated[int, typer.Option(min=1, help="Studies to write.")] = 8,
    seed: Annotated[int, typer.Option(help="Of anatomy and poses.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Write small DICOM studies of prescribed planes, cut from the demo's virtual brains.

    Example: `situs demo-studies demo-heart --kind heart`

    Only their geometry is that of a heart or knee examination.
    """
    from situs.demo.studies import make_demo_studies

    if kind not in ("heart", "knee"):
        raise typer.BadParameter(f"--kind must be heart or knee, got '{kind}'")
    chosen: Literal["heart", "knee"] = "heart" if kind == "heart" else "knee"
    written = make_demo_studies(folder, chosen, subjects, seed)
    if not quiet:
        studies = "1 study" if len(written) == 1 else f"{len(written)} studies"
        out.print(f"{studies} in {folder}", markup=False, soft_wrap=True)


def _scans(count: int) -> str:
    return "1 scan" if count == 1 else f"{count} scans"


def _print_plans(plans: list["RolePlan"], summary: list["RoleSummary"], quiet: bool) -> None:
    if not quiet:
        table = Table(box=None, pad_edge=False)
        for heading in ("study", "plane", "lines", "residual (mm)", "angle (°)", "distance (mm)"):
            table.add_column(heading, justify="left" if heading in ("study", "plane") else "right")
        for one in plans:
            numbers = (one.residual_mm, one.angle_deg, one.distance_mm)
            table.add_row(
                escape(one.study),
                escape(one.role),
                f"{one.usable} of {one.looked_at}",
                *("–" if value is None else f"{value:.1f}" for value in numbers),
            )
        out.print(table)
    reasons: dict[str, list[str]] = {}
    for one in plans:
        if one.reason:
            reasons.setdefault(one.reason, []).append(f"{one.study} {one.role}")
    for reason, without in reasons.items():
        shown = ", ".join(without[:_SHOWN]) + (", …" if len(without) > _SHOWN else "")
        words = f"{len(without)} of {len(plans)}: {reason} ({shown})"
        err.print(f"[yellow]no plane for[/] {escape(words)}", highlight=False, soft_wrap=True)
    if summary[-1].compared:
        out.print(planned(summary))


def _studies_table(rows: list["StudyRow"]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("study", "series", "words", "slices", "frames", "spacing (mm)", "role", "why"):
        table.add_column(heading)
    for row in rows:
        seen = row.recognised
        lies = f"{seen.orientation}, tilted {seen.tilt_deg:.0f}°" if seen.orientation else ""
        table.add_row(
            row.study[:8],
            row.series[:8],
            escape(row.words),
            str(row.slices or "–"),
            str(row.frames),
            " × ".join(f"{s:.2f}" for s in row.spacing),
            f"[green]{escape(seen.role)}[/]" if seen.role else "[yellow]none[/]",
            escape(seen.reason or lies),
        )
    return table
