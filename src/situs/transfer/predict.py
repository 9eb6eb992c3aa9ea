"""``situs predict``: apply a fine-tuned model to scans that nobody has labelled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from situs.errors import RunError, ScanRefused, setting
from situs.files import check_writable, file_inside, read_csv, write_csv
from situs.locks import holding
from situs.scans.channels import read_channels, with_modalities
from situs.scans.discovery import Candidate, common_root, discover
from situs.scans.read import read_scan, read_series
from situs.scans.refusals import refuse
from situs.scans.scan import Scan
from situs.store import preprocess
from situs.transfer.attribution import (
    Input,
    free_name,
    grouped_inputs,
    named_inputs,
    unread_input,
)
from situs.transfer.evaluate import write_labels
from situs.transfer.model import Model, Task

TABLE = "predictions.csv"
DONE = "predicted"
"""Status of a scan that was predicted; of another it is the code of its refusal."""
Progress = Callable[[int, int], None]
Row = dict[str, str | float]


@dataclass
class Predictions:
    """What became of each scan.

    Attributes:
        rows: One a scan, as in ``predictions.csv``: ``scan`` (its name), ``file`` (of a
            segmentation), ``source`` (where it lies relative to what was given), ``series``,
            ``status``, ``content`` (checksum of its files), and the volume of each class in ml
            or its probability.
        refused: Scans that could not be predicted, and why.
        skipped: Names of scans that an earlier call had predicted.
    """

    rows: list[Row] = field(default_factory=list)
    refused: list[ScanRefused] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def predict(
    model: Model | str | Path,
    paths: Sequence[str | Path],
    out: str | Path,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
    *,
    resume: bool = False,
) -> Predictions:
    """Segment or classify every scan at ``paths``.

    Segmentations are written with each scan's geometry, named by where the scan lies below what
    was given (``patient_B/ct.nii.gz`` becomes ``patient_B_ct-CHECKSUM.nii.gz``);
    ``predictions.csv`` says whose each is, those of earlier calls included, and grows with every
    scan. A scan that cannot be used is skipped and named there, the rest goes on.

    Args:
        model: A result folder of a fine-tuning, or what :meth:`Model.load` made of one.
        paths: Files, DICOM folders, or folders of any of these. For a model of several channels
            files ``NAME_0000``, ``NAME_0001``, … are the channels of one scan.
        out: Folder; must not hold predictions of the same scans, by name, unless ``overwrite``
            or ``resume``.
        overwrite: Replace them.
        progress: Told (done, total).
        resume: Keep them, and predict the other scans. A scan is known by its source and the
            content of its files; another of the same name is predicted under a name of its own.

    Raises:
        RunError: If nothing is found, or ``out`` has predictions of these scans or of a model
            with other classes; nothing is written then.
    """
    if overwrite and resume:
        raise RunError(f"say {setting('overwrite')} or {setting('resume')}, not both")
    if not isinstance(model, Model):
        model = Model.load(model).to_device()
    given = [Path(path) for path in paths]
    for path in given:
        if not path.exists():
            raise RunError(f"{path} does not exist")
    out = Path(out)
    check_writable(out, folder=True)
    with holding(out, "situs predict"):
        return _predict(model, given, out, overwrite, resume, progress)


def _predict(
    model: Model,
    given: Sequence[Path],
    out: Path,
    overwrite: bool,
    resume: bool,
    progress: Progress,
) -> Predictions:
    root = common_root(given)
    found = discover(given, root, skip=[out])
    if not found.candidates and not found.refused:
        raise RunError(f"no scan below {', '.join(map(str, given))}")
    inputs = named_inputs(grouped_inputs(found.candidates, model.card.backbone.in_channels), root)
    table = _Table(out, model.task)
    result = Predictions(refused=list(found.refused))
    wanted = table.wanted(inputs, overwrite=overwrite, resume=resume, skipped=result.skipped)
    for error in found.refused:
        table.add(table.row(unread_input(error.path, root), status=error.reason))
    for number, item in enumerate(wanted):
        progress(number, len(wanted))
        try:
            row = _one(model, item, table.target(item.name))
        except ScanRefused as error:
            result.refused.append(error)
            table.add(table.row(item, status=error.reason))
            continue
        table.add(row)
        result.rows.append(row)
    progress(len(wanted), len(wanted))
    return result


class _Table:
    """``predictions.csv``: a row a scan, whichever call predicted it."""

    def __init__(self, folder: Path, task: Task) -> None:
        self.file = folder / TABLE
        self.segments = task.kind == "segmentation"
        self.columns = _columns(task)
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

    def target(self, name: str) -> Path:
        """Where a segmentation is written."""
        return file_inside(self.file.parent, name, ".nii.gz")

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
                f"{self.file.parent} has predictions of {len(there)} of these scans ({shown}); "
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


def _columns(task: Task) -> list[str]:
    first = ["scan", "file", "source", "series", "status", "content"]
    if task.kind == "classification":
        return [*first, *(f"p({name})" for name in task.classes.values())]
    return [*first, *(f"{name} (ml)" for value, name in task.classes.items() if value)]


def _one(model: Model, item: Input, target: Path) -> Row:
    scan = _scan(item.channels, item.root, model)
    prepared = preprocess(scan, model.task.rules, kinds=model.task.intensity)
    known = [item.name, "", item.source, item.series, DONE, item.content]
    if model.task.kind == "classification":
        values = [float(p) for p in model.probabilities(prepared)]
        return dict(zip(_columns(model.task), [*known, *values], strict=True))
    labels = model.segment(prepared)
    write_labels(target, labels, scan.affine)
    known[1] = target.name
    voxel_ml = float(np.prod(scan.spacing)) / 1000
    volumes = [float((labels == value).sum() * voxel_ml) for value in model.task.classes if value]
    return dict(zip(_columns(model.task), [*known, *volumes], strict=True))


def _scan(channels: Sequence[Candidate], root: Path, model: Model) -> Scan:
    wanted = model.card.backbone.in_channels
    return read_input(channels, root, wanted, model.task.modalities)


def read_input(
    channels: Sequence[Candidate],
    root: Path,
    wanted: int,
    modalities: Sequence[str | None] = (),
) -> Scan:
    """Read the scan that files were grouped to.

    Args:
        channels: From :func:`grouped_inputs`.
        root: Folder that their paths are relative to.
        wanted: Channels that the network takes.
        modalities: Of each channel, where the model knows better than the files.

    Raises:
        ScanRefused: As :func:`read_scan`, and ``channel-count``.
    """
    paths = [candidate.place(root) for candidate in channels]
    scan = read_channels(paths) if len(paths) > 1 else _read_one(channels[0], root, wanted)
    if scan.array.shape[0] != wanted:
        detail = f"has {scan.array.shape[0]} channel(s), the model was trained on {wanted}"
        raise refuse("channel-count", paths[0], detail)
    return with_modalities(scan, modalities, paths[0])


def _read_one(candidate: Candidate, root: Path, channels: int) -> Scan:
    path = candidate.place(root)
    # As many volumes in one file as the network has channels, else exactly one.
    volume: Literal["all"] | None = "all" if channels > 1 else None
    if candidate.files:
        return read_series(candidate.places(root), path, volume, series=candidate.series)
    return read_scan(path, volume, series=candidate.series or None)
