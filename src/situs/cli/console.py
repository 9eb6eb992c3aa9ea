"""Consoles and the two flags that most verbs share."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleDimensions
from rich.logging import RichHandler
from rich.text import Text

from situs.errors import SitusError
from situs.places import url_of


class _Output(Console):
    """A console for which a pipe or a file has no width.

    Wrapping would break one row of a table over several lines of a log.
    """

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and rows of the terminal, or of what ``COLUMNS`` asks for."""
        asked = os.environ.get("COLUMNS", "")  # now: rich keeps what was asked for at its making
        if asked.isdigit() and int(asked):
            return ConsoleDimensions(int(asked), super().size.height)
        return super().size if self.is_terminal else ConsoleDimensions(_PIPE_COLUMNS, 25)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self.width, self.height = new_size


_PIPE_COLUMNS = 100_000
"""More than any line has: what is printed there takes the room that it needs, and no more."""


out = _Output()
err = _Output(stderr=True)


class _Teller(RichHandler):
    """Warnings under their name; what is only told as a plain line."""

    def render(self, **parts: Any) -> Any:
        """A record as it is printed."""
        record, words = parts["record"], parts["message_renderable"]
        if record.levelno < logging.WARNING:
            return words
        if not self.console.is_terminal:  # a log's lines end with their words
            return Text.assemble(f"{record.levelname:<8} ", words)
        return super().render(**parts)


_TELLER = _Teller(logging.INFO, err, show_time=False, show_path=False, markup=False)


def hush(wanted: bool) -> bool:
    """From here on only warnings and errors are told."""
    if wanted:
        _TELLER.setLevel(logging.WARNING)
    return wanted


Json = Annotated[
    bool,
    typer.Option("--json", callback=hush, help="Print machine-readable JSON instead."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is in --out.")]
Names = Annotated[
    bool,
    typer.Option("--names", help="Show the names of scans and cases instead of short ids."),
]


Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", callback=hush, help="Print only results and errors."),
]


def out_folder(path: Path | None) -> Path | None:
    """Refuse an ``--out`` that can hold no files, before anything is computed for it."""
    return _writable(path, folder=True)


def out_file(path: Path | None) -> Path | None:
    """Refuse an ``--out`` that cannot be written as a file."""
    return _writable(path, folder=False)


def out_page(path: Path | None) -> Path | None:
    """Refuse an ``--out`` that can be neither a page nor the folder of one."""
    return _writable(path, folder=path is None or path.suffix != ".html", file="FILE.html")


def out_catalog(path: Path | None) -> Path | None:
    """Refuse an ``--out`` that can be neither a file of a catalog nor the folder of one."""
    folder = path is None or path.suffix not in (".parquet", ".json")
    if path is not None and path.suffix in (".csv", ".tsv", ".txt", ".xlsx"):
        raise SitusError(
            f"--out: {path}: a catalog is a FILE.parquet or FILE.json, or a folder of both"
        )
    return _writable(path, folder=folder, file="FILE.parquet")


def some_there(paths: list[Path]) -> list[Path]:
    """Refuse paths none of which leads anywhere; one of several is refused by name as a scan."""
    if not any(url_of(path) or path.exists() or path.is_symlink() for path in paths):
        names = ", ".join(map(str, paths))
        raise SitusError(f"{names} {'does' if len(paths) == 1 else 'do'} not exist")
    return paths


def _writable(path: Path | None, folder: bool, file: str = "") -> Path | None:
    from situs.files import check_writable

    if path is not None:
        check_writable(path, folder=folder, file=file)
    return path


def log_to_terminal() -> None:
    """Let what the library logs appear on standard error, until ``--quiet`` says otherwise."""
    log = logging.getLogger("situs")
    log.setLevel(logging.INFO)
    _TELLER.setLevel(logging.INFO)
    if _TELLER not in log.handlers:
        log.addHandler(_TELLER)


@contextmanager
def bars(doing: str, hidden: bool) -> Iterator[Callable[[str, int, int | None], None]]:
    """Bars on standard error, only where somebody looks at it.

    Yields:
        To be called with what something is done to, how much is done, and of how much where that
        is known.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, Any] = {}
    with Progress(
        TextColumn("{task.description}"),
        *columns,
        console=err,
        transient=True,
        disable=hidden or not err.is_terminal,
    ) as progress:

        def tell(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(f"{doing} {what}".strip(), total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield tell


@contextmanager
def bar(doing: str, hidden: bool) -> Iterator[Callable[[int, int], None]]:
    """One of :func:`bars`, there from the beginning; to be called with how much of how much."""
    with bars(doing, hidden) as tell:
        tell("", 0, None)
        yield partial(tell, "")


def print_remedies(reasons: Counter[str], console: Console) -> None:
    """What to do about refused scans, a line for each reason, the commonest first."""
    from situs.scans.refusals import REASONS

    for reason, count in reasons.most_common():
        words = f"{count} × {reason}: {REASONS[reason].remedy_in('shell')}"
        console.print(words, markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output, without colour or wrapping; NaN is null."""
    typer.echo(json.dumps(_finite(value), indent=2, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    """JSON has no word for NaN and the infinities."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
