"""The command line: verbs only, no logic. One module a group of verbs."""

import io
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from situs.cli.console import err, log_to_terminal
from situs.cli.exits import exit_of, left, stopped, table
from situs.cli.settings import CALLED
from situs.cores import sleep_when_idle
from situs.errors import (
    NotWritten,
    ProcessFailed,
    ScanRefused,
    Terminated,
    not_writable,
    out_of_memory,
    speaking,
)
from situs.ranks import is_first
from situs.signals import unwinding
from situs.version import __version__

# The verbs in the order of the work.
PANELS = {
    "Begin": ("demo", "doctor"),
    "Scans": ("scan", "studies", "prepare", "upload", "check"),
    "Pretraining": ("pretrain", "observe", "audit", "replay", "compare", "serve"),
    "Transfer": ("finetune", "predict", "probe", "embed", "plan", "import", "export"),
    "Comparison": ("study",),
    "What there is": ("methods", "backbones", "config", "demo-studies"),
}

# Read when torch is imported, which no verb has done yet. Its own warnings are none of a user's:
# that of unused parameters, for one, stands on every process of every training on several.
sleep_when_idle()
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


class _Stopped(BaseException):
    """Carries a Ctrl-C past typer, which would end the process before anything could be said."""


# What help calls a value whose type typer names as Python does; a flag takes none.
_VALUES = {
    "bool": "",
    "str": "<text>",
    **dict.fromkeys(("int", "float", "int range", "float range"), "<number>"),
}


def _in_words(told: str, _ctx: Any) -> str:
    """``<path>`` where typer would tell ``<list[Path]>``: the name or the help says 'several'."""
    one = re.sub(r"list\[(.*)\]", lambda found: found[1].lower(), told)
    return _VALUES.get(one.strip("<>"), one)


def _told_in_words(parameters: Iterable[Any], ctx: Any) -> None:
    for parameter in parameters:
        told = getattr(parameter, "display_type", None)  # absent in earlier typers
        if told is not None:
            parameter.display_type = partial(_in_words, told(ctx))


class InOrder(TyperGroup):
    """A group whose verbs are listed in the order of :data:`PANELS`, each in its panel."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Names of all verbs; one that has no panel comes last."""
        panels = {verb: panel for panel, verbs in PANELS.items() for verb in verbs}
        for name, verb in self.commands.items():
            verb.rich_help_panel = panels.get(name, "More")  # type: ignore[attr-defined]
        known = [verb for verb in panels if verb in self.commands]
        return known + [verb for verb in super().list_commands(ctx) if verb not in panels]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb; its help says in words what a value is."""
        verb = super().get_command(ctx, cmd_name)
        if verb is not None:
            _told_in_words(verb.get_params(ctx), ctx)  # --help among them
        return verb

    def get_params(self, ctx: Any) -> Any:
        """Options of situs itself, told likewise."""
        found = super().get_params(ctx)
        _told_in_words(found, ctx)
        return found

    def make_context(self, *given: Any, **more: Any) -> Any:
        """Read the options; typer would end a Ctrl-C here without a word."""
        try:
            return super().make_context(*given, **more)
        except (KeyboardInterrupt, Terminated) as error:
            raise _Stopped from stopped(error)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; what a Ctrl-C has to say gets out, and what is wrong is told plainly."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            problems = getattr(error.__cause__, "errors", None)
            if problems is not None:
                from situs.config import wish

                first = problems()[0]
                error.message = f"{wish(first)}, got '{first['input']}'"
            raise
        except (KeyboardInterrupt, Terminated) as error:
            verb = ctx.invoked_subcommand or ""
            raise _Stopped from stopped(error, verb, "--out" in _options(ctx).values())
        except Exception as error:
            if not_writable(error) and not getattr(error, "__notes__", ()):
                error.add_note(left(ctx.invoked_subcommand or ""))
            raise


app = typer.Typer(
    name="situs",
    cls=InOrder,
    help="Pretrain encoders on unlabelled 3D medical scans by teaching them where things are.",
    no_args_is_help=True,
    invoke_without_command=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    epilog=table(),
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
    if modules:
        from situs.registry import import_code

        for module in modules:
            import_code(module)
    log_to_terminal()
    ctx.with_resource(speaking(_options(ctx)))


# Where a setting is called otherwise than the parameter of the verb that takes it.
_SETTINGS = {called: setting for setting, called in CALLED.items()} | {
    "out_path": "out",
    "file": "out",
    "store": "out",
    "folder": "out",
    "table": "out",
    "catalog": "out",
}


def _options(ctx: typer.Context) -> dict[str, str]:
    """Setting → option of the verb that was called, so that errors name what was typed."""
    verb = getattr(ctx.command, "commands", {}).get(ctx.invoked_subcommand)
    options: dict[str, str] = {}
    for parameter in verb.params if verb else ():
        written = [name for name in parameter.opts if name.startswith("--")]
        if written and parameter.name:
            for name in (parameter.name, _SETTINGS.get(parameter.name, parameter.name)):
                options[name] = written[0]
        if parameter.name == "folder" and not written:  # an argument that files are written to
            options["out"] = "folder"
    return options


# Importing a module adds its verbs to ``app``; each imports its heavy parts inside the verb, so
# that ``situs --help`` stays quick. For the same reason their annotations are no strings (no
# ``from __future__ import annotations``): typer would evaluate each of them four times.
from situs.cli import (  # noqa: E402
    audit,  # noqa: F401
    check,  # noqa: F401
    data,  # noqa: F401
    doctor,  # noqa: F401
    export,  # noqa: F401
    observe,  # noqa: F401
    plan,  # noqa: F401
    reference,  # noqa: F401
    replay,  # noqa: F401
    study,  # noqa: F401
    train,  # noqa: F401
    transfer,  # noqa: F401
    weights,  # noqa: F401
)


def main() -> None:
    """Entry point; how it ends is in :mod:`situs.cli.exits`."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that has no letter for something gets its number, as on standard error.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with unwinding():
            app()
    except (Exception, KeyboardInterrupt, Terminated, _Stopped) as caught:
        error = caught.__cause__ if isinstance(caught, _Stopped) else caught
        code = exit_of(error) if error is not None else None
        if error is None or code is None:
            raise
        if is_first() or (isinstance(error, ProcessFailed) and error.speaks):
            with suppress(OSError):  # standard error may go to the very disk that is full
                _tell(error)
        sys.exit(code)


def _unwritten(error: Exception) -> str:
    """What a full disk says, whichever library met it."""
    said = str(error)
    if not isinstance(error, NotWritten):
        known = error if isinstance(error, OSError) else OSError()
        why = known.strerror or "the disk takes nothing more"
        said = f"{known.filename or 'a file'} cannot be written: {why}"
    then = ", ".join(getattr(error, "__notes__", ()))
    return f"{said}. What was finished before is whole. Free some space, then {then}"


def _refused(error: ScanRefused) -> str:
    """Why one scan ends a command, and what to do about it."""
    from situs.scans.refusals import REASONS

    known = REASONS.get(error.reason)
    return f"{error}. What to do: {known.remedy_in('shell')}" if known else str(error)


def _tell(error: BaseException) -> None:
    """One message, however many processes there are."""
    if isinstance(error, Exception):
        words = str(error)
        if out_of_memory(error):
            words = f"out of memory: {error}"
        elif not_writable(error):
            words = _unwritten(error)
        elif isinstance(error, ScanRefused):
            words = _refused(error)
        elif isinstance(error, OSError):
            words = f"{error.filename}: {error.strerror or 'cannot be used'}"
        words = escape(_as_typed(words))
        err.print(f"[bold red]error:[/] {words}", highlight=False, soft_wrap=True)
    else:
        err.print(escape(_as_typed(str(stopped(error)))), highlight=False, soft_wrap=True)


def _as_typed(words: str) -> str:
    """Paths below the working folder as they were typed: relative, unless one was typed whole."""
    try:
        here = os.path.join(os.getcwd(), "")
    except OSError:  # the working folder is gone
        return words
    if here == os.sep or any(here in word for word in sys.argv[1:]):
        return words
    return re.sub(rf"(?<![\w./:-]){re.escape(here)}", "", words)
