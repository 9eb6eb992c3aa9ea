"""``situs check``."""

from pathlib import Path
from typing import Annotated

import typer

from situs.cli import app
from situs.cli.console import Json, Quiet, bar, out, print_json
from situs.errors import Fault


@app.command()
def check(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Stores, runs, results, predictions, studies, weights.", metavar="FOLDER"
        ),
    ],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Hold everything that is stored against its checksum; a line for each file that is damaged.

    Example: `situs check store runs/first results/first`

    Exit code 0 where all is whole, 1 where a fault was found.
    """
    from situs.studies.check import check_folder

    faults: list[Fault] = []
    for path in paths:
        with bar(f"checking {path.name}", quiet or json) as tell:
            faults += check_folder(path, tell)
    if json:
        print_json({"faults": [{"file": fault.file, "what": fault.what} for fault in faults]})
    else:
        for fault in faults:
            words = fault.what if fault.file in fault.what else f"{fault.file} {fault.what}"
            out.print(words, markup=False, highlight=False, soft_wrap=True)
        if not quiet:
            found = f"{len(faults)} faults" if faults else "everything is whole"
            out.print(f"{len(paths)} checked: {found}", highlight=False)
    raise typer.Exit(int(bool(faults)))
