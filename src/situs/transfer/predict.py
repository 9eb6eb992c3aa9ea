"""``situs predict``: apply a fine-tuned model to scans that nobody has labelled."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from situs.errors import ConfigError, RunError, ScanRefused, setting
from situs.files import check_writable, read_json, write_json
from situs.locks import holding
from situs.places import ON_DISK, check_local
from situs.scans.channels import read_channels, with_modalities
from situs.scans.discovery import Candidate, common_root, discover
from situs.scans.quality import looks_like_labels
from situs.scans.read import read_scan, read_series
from situs.scans.refusals import refuse
from situs.scans.scan import Scan
from situs.transfer.attribution import Input, grouped_inputs, named_inputs, unread_input
from situs.transfer.dicom_seg import source_images, write_dicom_seg
from situs.transfer.ensemble import Ensemble, PredictSettings
from situs.transfer.evaluate import write_labels, write_probabilities
from situs.transfer.model import Model, Task
from situs.transfer.prediction_table import TABLE, PredictionTable, Row, columns

RECORD = "predict.json"
PROBABILITIES = "probabilities"
DICOM_SEG = "dicom-seg"
SHARDS = "shards"
_ATTEMPTS = 120
_PAUSE_S = 0.5
_SHOWN = 5  # names of label maps
_LOG = logging.getLogger(__name__)
Progress = Callable[[int, int], None]


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

    def __repr__(self) -> str:
        before = f", {len(self.skipped)} done before" if self.skipped else ""
        return f"Predictions({len(self.rows)} predicted{before}, {len(self.refused)} refused)"


def predict(
    model: Model | str | Path | Sequence[Model | str | Path],
    paths: Sequence[str | Path],
    out: str | Path,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
    *,
    resume: bool = False,
    settings: Mapping[str, Any] | PredictSettings | None = None,
    probabilities: bool = False,
    dicom_seg: bool = False,
    shard: tuple[int, int] | None = None,
) -> Predictions:
    """Segment or classify every scan at ``paths``.

    Segmentations are written with each scan's geometry, named by where the scan lies below what
    was given (``patient_B/ct.nii.gz`` becomes ``patient_B_ct-CHECKSUM.nii.gz``);
    ``predictions.csv`` says whose each is, those of earlier calls included, and grows with every
    scan; ``predict.json`` holds the models and settings. A scan that cannot be used is skipped
    and named there, the rest goes on.

    Args:
        model: A result folder of a fine-tuning, or what :meth:`Model.load` made of one; several
            of one task, whose probabilities are averaged.
        paths: Files, DICOM folders, or folders of any of these. For a model of several channels
            files ``NAME_0000``, ``NAME_0001``, … are the channels of one scan.
        out: Folder; must not hold predictions of the same scans, by name, unless ``overwrite``
            or ``resume``.
        overwrite: Replace them.
        progress: Told (done, total).
        resume: Keep them, and predict the other scans. A scan is known by its source and the
            content of its files; another of the same name is predicted under a name of its own.
        settings: Fields of :class:`~situs.transfer.ensemble.PredictSettings`.
        probabilities: Write those of a segmentation to ``probabilities/``, ``(X, Y, Z, class)``
            on the scan's own grid.
        dicom_seg: Write segmentations of DICOM series to ``dicom-seg/`` as well.
        shard: (which, of how many), from 1: this call takes every n-th scan. Calls for all
            shards of one folder may run at once; each adds to ``predictions.csv`` at its end.

    Raises:
        ConfigError: For settings that do not fit the models, or a shard that cannot be.
        RunError: If nothing is found, or ``out`` holds the scans, or has predictions of these
            scans, of a model with other classes, or of other models and settings; nothing is
            written then.
        TransferError: If there is no model, or models are of different tasks.
    """
    if overwrite and resume:
        raise RunError(f"say {setting('overwrite')} or {setting('resume')}, not both")
    if shard is not None and not 1 <= shard[0] <= shard[1]:
        raise ConfigError(f"{setting('shard')} must be from 1/N to N/N, got {shard[0]}/{shard[1]}")
    models = Ensemble.load(model, settings)
    if models.task.kind == "classification" and (probabilities or dicom_seg):
        wish = setting("probabilities" if probabilities else "dicom_seg")
        raise ConfigError(f"{wish} is of segmentations; {TABLE} holds the probabilities of classes")
    given = [Path(path) for path in paths]
    for path in given:
        check_local(path, ON_DISK)
        if not path.exists():
            raise RunError(f"{path} does not exist")
    out = Path(out)
    check_writable(out, folder=True)
    if out.resolve() in ((p if p.is_dir() else p.parent).resolve() for p in given):
        # Predictions have the names of their scans.
        raise RunError(f"{setting('out')}: {out} holds the scans themselves; choose another folder")
    job = _Job(models, out, probabilities, dicom_seg, shard)
    with holding(job.held, "situs predict"):
        result = _predict(job, given, overwrite, resume, progress)
    if shard is not None:
        merge_shards(out, models.task)
    return result


@dataclass(frozen=True)
class _Job:
    """What one call writes, and where."""

    models: Ensemble
    out: Path
    probabilities: bool
    dicom_seg: bool
    shard: tuple[int, int] | None

    @property
    def held(self) -> Path:
        """The folder that no other call may write to at the same time."""
        if self.shard is None:
            return self.out
        return self.out / SHARDS / "{}-of-{}".format(*self.shard)

    @property
    def record(self) -> dict[str, Any]:
        """What decides the numbers."""
        return {**self.models.record(self.probabilities), "dicom_seg": self.dicom_seg}

    def table(self) -> PredictionTable:
        """The table that this call adds to."""
        file = None if self.shard is None else self.held / TABLE
        return PredictionTable(self.out, self.models.task, file)

    def own(self, inputs: Sequence[Input]) -> Sequence[Input]:
        """Those of all inputs that this call takes."""
        return inputs if self.shard is None else inputs[self.shard[0] - 1 :: self.shard[1]]

    def check_record(self, left: bool) -> None:
        """Refuse to mix predictions of different models or settings.

        Args:
            left: Whether predictions of earlier calls stay.

        Raises:
            RunError: If they were made otherwise.
        """
        file = self.out / RECORD
        if left and file.is_file():
            before = read_json(file, "choose another folder")
            differing = [name for name, value in self.record.items() if before.get(name) != value]
            if differing:
                raise RunError(
                    f"{self.out} has predictions that were made with other "
                    f"{', '.join(differing)}; choose another folder"
                )


def _predict(
    job: _Job, given: Sequence[Path], overwrite: bool, resume: bool, progress: Progress
) -> Predictions:
    root = common_root(given)
    found = discover(given, root, skip=[job.out])
    if not found.candidates and not found.refused:
        raise RunError(f"no scan below {', '.join(map(str, given))}")
    inputs = job.own(named_inputs(grouped_inputs(found.candidates, job.models.channels), root))
    table = job.table()
    first = job.shard is None or job.shard[0] == 1
    result = Predictions(refused=list(found.refused) if first else [])
    wanted = table.wanted(inputs, overwrite=overwrite, resume=resume, skipped=result.skipped)
    job.check_record(bool(table.rows) or (job.shard is not None and not overwrite))
    if overwrite:  # first: of what is replaced, none is to count as predicted by these models
        table.write()
    write_json(job.out / RECORD, job.record)
    for error in result.refused:
        table.add(table.row(unread_input(error.path, root), status=error.reason))
    labels = _LabelMaps()
    for number, item in enumerate(wanted):
        progress(number, len(wanted))
        try:
            row = _one(job, item, table, labels)
        except ScanRefused as error:
            result.refused.append(error)
            table.add(table.row(item, status=error.reason))
            continue
        table.add(row)
        result.rows.append(row)
    progress(len(wanted), len(wanted))
    labels.tell()
    return result


class _LabelMaps:
    """Scans that look as if they were labels: they are predicted all the same, and told."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def look(self, scan: Scan, name: str) -> None:
        """Tell of the first at once, while there is time to stop."""
        if looks_like_labels(scan.array):
            if not self._names:
                _LOG.warning(
                    "%s has few values in large patches, as a label map has; it is predicted like "
                    "any scan",
                    name,
                )
            self._names.append(name)

    def tell(self) -> None:
        """Tell of all where there were several."""
        if len(self._names) > 1:
            shown = ", ".join(self._names[:_SHOWN]) + (", …" if len(self._names) > _SHOWN else "")
            _LOG.warning("%d scans look like label maps: %s", len(self._names), shown)


def merge_shards(out: Path, task: Task) -> None:
    """Bring what the shards of a folder have predicted so far into one table.

    Each shard does so at its end; whichever is last has the rows of all.

    Args:
        out: Folder of the predictions.
        task: What is predicted.

    Raises:
        RunError: If another process holds the folder for longer than a merge takes.
    """
    with ExitStack() as stack:
        for left in reversed(range(_ATTEMPTS)):
            try:
                stack.enter_context(holding(out, "situs predict"))
                break
            except RunError:
                if not left:
                    raise
                time.sleep(_PAUSE_S)
        table = PredictionTable(out, task)
        for file in sorted((out / SHARDS).glob(f"*/{TABLE}")):
            table.rows.update(PredictionTable(out, task, file).rows)
        table.write()


def _one(job: _Job, item: Input, table: PredictionTable, labels: _LabelMaps) -> Row:
    models, task = job.models, job.models.task
    scan = read_input(item.channels, item.root, models.channels, task.modalities)
    labels.look(scan, item.name)
    # A scan that no DICOM-SEG can refer to is refused before anything is computed.
    place = item.channels[0].place(item.root)
    sources = source_images(item.files, place, item.series) if job.dicom_seg else []
    found = models.predict(scan, probabilities=job.probabilities)
    row = table.row(item)
    if found.labels is None:
        assert found.probabilities is not None
        values = [float(p) for p in found.probabilities]
        return row | dict(zip(columns(task)[-len(values) :], values, strict=True))
    target = table.target(item.name)
    if sources:
        origin = f"{item.content} {sorted(models.names)} {models.settings}"
        file = table.target(item.name, ".dcm", DICOM_SEG)
        write_dicom_seg(file, found.labels, scan.affine, sources, task.classes, origin)
    if found.probabilities is not None:
        write_probabilities(
            table.target(item.name, ".nii.gz", PROBABILITIES), found.probabilities, scan.affine
        )
    write_labels(target, found.labels, scan.affine)
    voxel_ml = float(np.prod(scan.spacing)) / 1000
    volumes = [float((found.labels == v).sum() * voxel_ml) for v in task.classes if v]
    named = dict(zip(columns(task)[-len(volumes) :], volumes, strict=True)) if volumes else {}
    return row | {"file": target.name} | named


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
