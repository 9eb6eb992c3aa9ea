"""The table of predictions: which scan is predicted, under which name, and what was found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from situs.errors import RunError, setting
from situs.files import file_inside
from situs.tables import read_csv, write_csv
from situs.transfer.attribution import Input, free_name
from situs.transfer.model import Task

TABLE = "predictions.csv"
DONE = "predicted"
"""Status of a scan that was predicted; of another it is the code of its refusal."""
Row = dict[str, str | float]


class PredictionTable:
    """``predictions.csv``: a row a scan, whichever call predicted it.

    Args:
        folder: Where predictions are written.
        task: What is predicted.
        file: The table, where it is not :data:`TABLE` in ``folder``: that of a shard.
    """

    def __init__(self, folder: Path, task: Task, file: Path | None = None) -> None:
        self.folder = folder
        self.file = file or folder / TABLE
        self.segments = task.kind == "segmentation"
        self.columns = columns(task)
        self.rows: dict[str, Mapping[str, str | float]] = {}
        if self.file.is_file():
            remedy = "restore it from a copy, or choose another folder"
            rows = [_of_today(row) for row in read_csv(self.file, remedy, "scan")]
            self.rows = {str(row.get("scan", "")): row for row in rows}
        # Of what an earlier call left: it is asked before anything is predicted.
        self._by_content: defaultdict[str, list[str]] = defaultdict(list)
        for name, row in self.rows.items():
            if row["content"]:
                self._by_content[str(row["content"])].append(name)

    def target(self, name: str, suffix: str = ".nii.gz", below: str = "") -> Path:
        """Where a segmentation is written, or what else there is of a scan."""
        return file_inside(self.folder / below, name, suffix)

    def wanted(
        self, inputs: Sequence[Input], *, overwrite: bool, resume: bool, skipped: list[str]
    ) -> list[Input]:
        """What is to be predicted, under names that no other scan's prediction has.

        Args:
            inputs: All that was found.
            overwrite: Forget rows of the same sources.
            resume: Leave out what is predicted, by source and content.
            skipped: Takes the names of those left out.

        Raises:
            RunError: If predictions of these scans are there and nothing was said of them, or if
                the table is of a model with other classes.
        """
        if not (overwrite or resume):
            self._check_free(inputs)
        wanted: list[Input] = []
        used: set[str] = set()
        for item in inputs:
            same = next((n for n in self._rows_of(item) if n not in used), None)
            if same is not None:
                used.add(same)
            if resume and same is not None and self._finished(same):
                skipped.append(same)
            else:
                wanted.append(item if same is None else replace(item, name=same))
        if overwrite:
            sources = {(item.source, item.series) for item in wanted}
            self._forget(n for n, r in self.rows.items() if (r["source"], r["series"]) in sources)
        self._forget(item.name for item in wanted if item.name in used)
        if any(list(row) != self.columns for row in self.rows.values()):
            raise RunError(f"{self.file} is of a model with other classes; choose another folder")
        return self._with_free_names(wanted, overwrite)

    def _with_free_names(self, wanted: Sequence[Input], overwrite: bool) -> list[Input]:
        taken = set() if overwrite else {n for n in self.rows if self._finished(n)}
        named = []
        for item in wanted:
            free = free_name(item, taken)
            taken.add(free.name)
            named.append(free)
        return named

    def _rows_of(self, item: Input) -> list[str]:
        """Names of the rows of this very scan: by source and content, and nothing else."""
        found = [n for n in self._by_content[item.content] if _is_akin(self.rows[n], item)]
        named = self.rows.get(item.name)
        # Tables once told no content: by name.
        return found + ([item.name] if named is not None and not named["content"] else [])

    def _finished(self, name: str) -> bool:
        """Whether a scan was predicted to the end: its row comes last."""
        done = self.rows[name]["status"] == DONE
        return done and (not self.segments or self.target(name).exists())

    def _check_free(self, inputs: Sequence[Input]) -> None:
        """Raise if anything is there of any of these scans."""
        done = {name for name, row in self.rows.items() if row["status"] == DONE}
        there = [
            item.name
            for item in inputs
            if item.name in done
            or (self.segments and self.target(item.name).exists())
            or not done.isdisjoint(self._rows_of(item))
        ]
        if there:
            shown = ", ".join(there[:3]) + (", …" if len(there) > 3 else "")
            raise RunError(
                f"{self.folder} has predictions of {len(there)} of these scans ({shown}); "
                f"say {setting('resume')} to keep them, {setting('overwrite')} to replace them, or "
                "choose another folder"
            )

    def _forget(self, names: Iterable[str]) -> None:
        for name in list(names):
            self.rows.pop(name, None)

    def row(self, item: Input, status: str = DONE) -> Row:
        """The row of an input without its values."""
        row: Row = dict.fromkeys(self.columns, "")
        known = {"scan": item.name, "source": item.source, "series": item.series}
        return row | known | {"status": status, "content": item.content}

    def add(self, row: Row) -> None:
        """Add a row and write the table, whole or not at all."""
        self.rows[str(row["scan"])] = row
        self.write()

    def write(self) -> None:
        """Write the table, whole or not at all."""
        write_csv(self.file, list(self.rows.values()), self.columns)


def _is_akin(row: Mapping[str, str | float], item: Input) -> bool:
    """Whether a row's source may be this one, given by its folder or by a folder above."""
    here, there = str(row["source"]), item.source
    akin = here == there or "." in (here, there) or _ends(here, there) or _ends(there, here)
    return akin and row["series"] == item.series


def _ends(whole: str, end: str) -> bool:
    return whole.endswith("/" + end)


def _of_today(row: Mapping[str, str]) -> dict[str, str | float]:
    """A row as it is written now, from one that names no source."""
    if "status" in row:
        return dict(row)
    kept = {key: value for key, value in row.items() if key not in ("scan", "file")}
    origin = {"file": row.get("file", ""), "source": "", "series": "", "status": DONE}
    return {"scan": row.get("scan", ""), **origin, "content": "", **kept}


def columns(task: Task) -> list[str]:
    """Columns of a table: whose a prediction is, then what was found, a column a class."""
    first = ["scan", "file", "source", "series", "status", "content"]
    if task.kind == "classification":
        return [*first, *(f"p({name})" for name in task.classes.values())]
    return [*first, *(f"{name} (ml)" for value, name in task.classes.items() if value)]
