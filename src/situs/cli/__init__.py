"""The command line: verbs only, no logic. One module a group of verbs."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer
from rich.markup import escape

from situs.cli.console import err
from situs.errors import SitusError, speaking
from situs.registry import import_code
from situs.version import __version__

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
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    modules: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="MODULE",
            envvar="SITUS_IMPORT",
            help="Import code of yours that weights or runs name; may be repeated.",
        ),
    ] = None,
) -> None:
    """Pretrain encoders on unlabelled 3D medical scans by teaching them where things are."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
    for module in modules or ():
        import_code(module)
    ctx.with_resource(speaking(_options(ctx)))


# Where a setting is called otherwise than the parameter of the verb that takes it.
_SETTINGS = {
    "labels": "train",
    "out_path": "out",
    "file": "out",
    "store": "out",
    "folder": "out",
    "catalog": "out",
    "test_data": "dataset.test",
}


def _options(ctx: typer.Context) -> dict[str, str]:
    """Setting → option of the verb that was called, so that errors name what was typed."""
    verb = getattr(ctx.command, "commands", {}).get(ctx.invoked_subcommand)
    options: dict[str, str] = {}
    for parameter in verb.params if verb else ():
        written = [name for name in parameter.opts if name.startswith("--")]
        if written and parameter.name:
            options[_SETTINGS.get(parameter.name, parameter.name)] = written[0]
    return options


# Importing a module adds its verbs to ``app``; each imports its heavy parts inside the verb, so
# that ``situs --help`` stays quick.
from situs.cli import (  # noqa: E402
    data,  # noqa: F401
    doctor,  # noqa: F401
    export,  # noqa: F401
    observe,  # noqa: F401
    plan,  # noqa: F401
    study,  # noqa: F401
    train,  # noqa: F401
    transfer,  # noqa: F401
    weights,  # noqa: F401
)


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
    except OSError as error:
        if error.filename is None:
            raise  # nothing that a user could look at
        words = f"{error.filename}: {error.strerror or 'cannot be used'}"
        err.print(f"[bold red]error:[/] {escape(words)}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("stopped; what was computed is kept")
        sys.exit(130)
