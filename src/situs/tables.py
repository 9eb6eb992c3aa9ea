"""Tables that situs writes and reads again, and that a spreadsheet can be given."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from situs.errors import SitusError
from situs.files import write_file

# How a text begins that a spreadsheet would run, or one that was marked because of that.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def cell(value: Any) -> Any:
    """A value of a table as spreadsheets can be given it: text that they would run gets a ``'``.

    Numbers stay as they are, text of numbers too. :func:`read_csv` takes the mark off again.

    Examples:
        >>> cell("=1+1"), cell("-2.5"), cell(-2.5), cell("liver")
        ("'=1+1", '-2.5', -2.5, 'liver')
    """
    if not isinstance(value, str) or not _FORMULA.match(value) or _is_number(value):
        return value
    return f"'{value}"


def _written(text: str) -> str:
    """What :func:`cell` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_csv(path: str | Path, remedy: str, column: str) -> list[dict[str, str]]:
    """The rows of a table that situs wrote, each with all of its columns.

    Args:
        path: Of the file.
        remedy: What to do where it is damaged.
        column: One that it must have.

    Raises:
        FileNotFoundError: Where there is none.
        SitusError: Where it cannot be read, or a row has other columns than the header.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            table = csv.DictReader(stream, strict=True)
            known = [_written(name) for name in table.fieldnames or ()]
            rows = list(table)
    except (UnicodeDecodeError, csv.Error) as error:
        raise SitusError(f"{path} is damaged ({type(error).__name__}); {remedy}") from None
    if column not in known:
        raise SitusError(f"{path} is damaged (no column '{column}'); {remedy}")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise SitusError(f"{path} is damaged (row {number} has other columns); {remedy}")
    return [{_written(name): _written(text) for name, text in row.items()} for row in rows]


def write_csv(
    path: str | Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None
) -> None:
    """Write a table with a header so that the file appears whole or not at all.

    Texts that a spreadsheet would run are marked, see :func:`cell`.

    Args:
        path: Of the file.
        rows: Values by column; a column that a row lacks stays empty there.
        columns: In this order; those of the first row by default.

    Raises:
        ValueError: If a row has a column that is not among them.
    """
    text = io.StringIO(newline="")
    names = list(rows[0] if columns is None else columns)
    table = csv.DictWriter(text, names, lineterminator="\n")
    table.writerow({name: cell(name) for name in names})
    table.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    write_file(path, text.getvalue())
