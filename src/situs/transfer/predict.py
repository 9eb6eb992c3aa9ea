"""``situs predict``: apply a fine-tuned model to scans that nobody has labelled."""

from __future__ import annotations

import csv
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from situs.errors import RunError, ScanRefused, setting
from situs.files import write_csv
from situs.scans.channels import read_channels, with_modalities
from situs.scans.discovery import Candidate, common_root, discover
from situs.scans.formats import stem
from situs.scans.names import channel_of, escaped
from situs.scans.read import read_scan, read_series
from situs.scans.refusals import refuse
from situs.scans.scan import Scan
from situs.store import preprocess
from situs.transfer.evaluate import write_labels
from situs.transfer.model import Model, Task

TABLE = "predictions.csv"
Progress = Callable[[int, int], None]
Row = dict[str, str | float]


@dataclass
class Predictions:
    """What became of each scan.

    Attributes:
        rows: One a scan: ``scan``, ``file`` and the volume of each class in ml, or ``scan`` and
            the probability of each class.
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

    Segmentations are written as ``NAME.nii.gz`` with each scan's geometry; ``predictions.csv``
    lists all scans, those of earlier calls included, and grows with every scan. A scan that
    cannot be used is skipped and named, the rest goes on.

    Args:
        model: A result folder of a fine-tuning, or what :meth:`Model.load` made of one.
        paths: Files, DICOM folders, or folders of any of these. For a model of several channels
            files ``NAME_0000``, ``NAME_0001``, … are the channels of one scan.
        out: Folder; must not hold predictions of the same scans, by name, unless ``overwrite``
            or ``resume``.
        overwrite: Replace them.
        progress: Told (done, total).
        resume: Keep them, and predict the other scans.

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
    root, out = common_root(given), Path(out)
    found = discover(given, root, skip=[out])
    if not found.candidates and not found.refused:
        raise RunError(f"no scan below {', '.join(map(str, given))}")
    inputs = dict(
        named_inputs(grouped_inputs(found.candidates, model.card.backbone.in_channels), root)
    )
    table = _Table(out, model.task)
    result = Predictions(refused=list(found.refused))
    if resume:
        result.skipped = [name for name in inputs if table.finished(name)]
    elif not overwrite:
        table.check_free(inputs)
    wanted = [name for name in inputs if name not in result.skipped]
    table.forget(wanted)
    for number, name in enumerate(wanted):
        progress(number, len(wanted))
        try:
            row = _one(model, name, _scan(inputs[name], root, model), table.target(name))
        except ScanRefused as error:
            result.refused.append(error)
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
            with self.file.open(encoding="utf-8", newline="") as stream:
                self.rows = {row.get("scan", ""): row for row in csv.DictReader(stream)}

    def target(self, name: str) -> Path:
        """Where a segmentation is written."""
        return self.file.with_name(f"{name}.nii.gz")

    def finished(self, name: str) -> bool:
        """Whether a scan was predicted to the end: its row comes last."""
        return name in self.rows and (not self.segments or self.target(name).exists())

    def check_free(self, names: Iterable[str]) -> None:
        """Raise if anything is there of any of these scans."""
        there = [n for n in names if n in self.rows or (self.segments and self.target(n).exists())]
        if there:
            shown = ", ".join(there[:3]) + (", …" if len(there) > 3 else "")
            raise RunError(
                f"{self.file.parent} has predictions of {len(there)} of these scans ({shown}); "
                f"say {setting('resume')} to keep them, {setting('overwrite')} to replace them, or "
                "choose another folder"
            )

    def forget(self, names: Iterable[str]) -> None:
        """Leave out the rows of scans that are predicted anew; raise if the rest fits not."""
        for name in names:
            self.rows.pop(name, None)
        if any(list(row) != self.columns for row in self.rows.values()):
            raise RunError(f"{self.file} is of a model with other classes; choose another folder")

    def add(self, row: Row) -> None:
        """Add a row and write the table, whole or not at all."""
        self.rows[str(row["scan"])] = row
        write_csv(self.file, list(self.rows.values()), self.columns)


def _columns(task: Task) -> list[str]:
    if task.kind == "classification":
        return ["scan", *(f"p({name})" for name in task.classes.values())]
    return ["scan", "file", *(f"{name} (ml)" for value, name in task.classes.items() if value)]


def _one(model: Model, name: str, scan: Scan, target: Path) -> Row:
    prepared = preprocess(scan, model.task.rules, kinds=model.task.intensity)
    if model.task.kind == "classification":
        values = [float(p) for p in model.probabilities(prepared)]
        return dict(zip(_columns(model.task), [name, *values], strict=True))
    labels = model.segment(prepared)
    write_labels(target, labels, scan.affine)
    voxel_ml = float(np.prod(scan.spacing)) / 1000
    volumes = [float((labels == value).sum() * voxel_ml) for value in model.task.classes if value]
    return dict(zip(_columns(model.task), [name, target.name, *volumes], strict=True))


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


def grouped_inputs(candidates: Sequence[Candidate], channels: int) -> list[list[Candidate]]:
    """The candidates of each scan: one, or a file a channel named as nnU-Net does."""
    groups: dict[tuple[Path, str], dict[int, Candidate]] = defaultdict(dict)
    for candidate in candidates:
        path = Path(candidate.path)
        found = channel_of(stem(path))
        if found is not None and not (candidate.files or candidate.series):
            groups[path.parent, found[0]][found[1]] = candidate
    whole = [g for g in groups.values() if channels > 1 and set(g) == set(range(channels))]
    joined = [[group[c] for c in sorted(group)] for group in whole]
    used = {candidate for group in joined for candidate in group}
    return [*joined, *([c] for c in candidates if c not in used)]


def named_inputs(
    inputs: Sequence[list[Candidate]], root: Path
) -> Iterator[tuple[str, list[Candidate]]]:
    """A file name for each scan: its own without suffix, numbered where two are alike."""
    taken: set[str] = set()
    for channels in inputs:
        path = Path(os.path.abspath(channels[0].place(root)))  # a link keeps its own name
        name = escaped(path.name if path.is_dir() else stem(path))
        found = channel_of(name)
        if found is not None and len(channels) > 1:
            name = found[0]
        alike = (f"{name}-{number}" for number in itertools.count(2))
        unique = next(n for n in itertools.chain([name], alike) if n not in taken)
        taken.add(unique)
        yield unique, channels
