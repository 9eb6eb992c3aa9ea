"""The command line: verbs only, no logic. One module a group of verbs."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer
from rich.markup import escape

from situs import __version__
from situs.cli.console import err
from situs.errors import SitusError

app = typer.Typer(
    name="situs",
    help="Pretrain encoders on unlabelled 3D medical scans by teaching them where things are.",
    no_args_is_help=True,
    invoke_without_command=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def situs(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Pretrain encoders on unlabelled 3D medical scans by teaching them where things are."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


# Importing a module adds its verbs to ``app``; each imports its heavy parts inside the verb, so
# that ``situs --help`` stays quick.
from situs.cli import data, doctor, export, observe, plan, study, train, transfer  # noqa: E402, F401


def main() -> None:
    """Entry point: exit code 0 for success, 1 for a result that is not, 2 for wrong use."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that has no letter for something gets its number, as on standard error.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except SitusError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("stopped; what was computed is kept")
        sys.exit(130)
