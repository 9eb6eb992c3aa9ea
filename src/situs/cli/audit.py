"""``situs audit``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from situs import text
from situs.cli import app
from situs.cli.console import Json, Quiet, out, print_json

_COLUMNS = ("trained", "emptied", "shuffled", "untrained", "constant", "chance")


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(help="A finished run.")],
    steps_share: Annotated[
        float,
        typer.Option(help="Share of the run's steps that the trainings without anatomy take."),
    ] = 0.25,
    init: Annotated[
        str | None,
        typer.Option(help="The weights that the run began with, where it began with any."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a run's configuration on scans without anatomy: what was learned from elsewhere?

    Scans are emptied (every voxel has one value) and shuffled (blocks of voxels change places);
    borders, padding, geometry and sampling stay. A score that is reached on them too was not
    learned from anatomy. The report of the run shows it from then on. The same command goes on
    with an audit that was stopped.

    Example: `situs audit runs/first` or `situs audit runs/first --steps-share 1`
    """
    from situs.pretraining.audit import AUDIT
    from situs.pretraining.audit import audit as run_audit

    scores = run_audit(run, steps_share, init=init, quiet=quiet or json)
    if json:
        print_json(scores)
        return
    table = Table("score", *_COLUMNS, box=None, pad_edge=False)
    for name, row in scores.items():
        cells = [text.quantity(row.get(column), row["unit"]) for column in _COLUMNS]
        table.add_row(text.printable(name.replace("_", " ")), *cells)
    out.print(table)
    out.print(f"audit: {run / AUDIT}", soft_wrap=True, markup=False, highlight=False)
