"""``situs predict``: apply a fine-tuned model to scans that nobody has labelled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from situs.errors import RunError, ScanRefused
from situs.scans.discovery import Candidate, common_root, discover
from situs.scans.layouts.common import stem
from situs.scans.read import read_scan, read_series
from situs.scans.refusals import refuse
from situs.scans.scan import Scan
from situs.store import preprocess
from situs.transfer.evaluate import write_labels
from situs.transfer.model import Model
from situs.transfer.result import write_cases

Progress = Callable[[int, int], None]


@dataclass
class Predictions:
    """What became of each scan.

    Attributes:
        rows: One a scan: ``scan``, ``file`` and the volume of each class in ml, or ``scan`` and
            the probability of each class.
        refused: Scans that could not be predicted, and why.
    """

    rows: list[dict[str, str | float]] = field(default_factory=list)
    refused: list[ScanRefused] = field(default_factory=list)


def predict(
    model: Model,
    paths: Sequence[str | Path],
    out: str | Path,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Predictions:
    """Segment or classify every scan at ``paths``.

    Segmentations are written as ``NAME.nii.gz`` with each scan's geometry; ``predictions.csv``
    lists all scans. A scan that cannot be used is skipped and named, the rest goes on.

    Args:
        model: From :meth:`Model.load`.
        paths: Files, DICOM folders, or folders of any of these.
        out: Folder; must not hold predictions of the same scans unless ``overwrite``.
        overwrite: Replace them.
        progress: Told (done, total).

    Raises:
        RunError: If nothing is found, or an output exists.
    """
    given = [Path(path) for path in paths]
    for path in given:
        if not path.exists():
            raise RunError(f"{path} does not exist")
    root, out = common_root(given), Path(out)
    found = discover(given, root, skip=[out])
    if not found.candidates and not found.refused:
        raise RunError(f"no scan below {', '.join(map(str, given))}")
    result = Predictions(refused=list(found.refused))
    for number, (name, candidate) in enumerate(_named(found.candidates, root)):
        progress(number, len(found.candidates))
        target = out / f"{name}.nii.gz"
        if target.exists() and not overwrite:
            raise RunError(f"{target} exists; choose another folder, or say 'overwrite'")
        try:
            result.rows.append(_one(model, name, _read(candidate, root, model), target))
        except ScanRefused as error:
            result.refused.append(error)
    progress(len(found.candidates), len(found.candidates))
    if result.rows:
        out.mkdir(parents=True, exist_ok=True)
        write_cases(out, result.rows, "predictions.csv")
    return result


def _one(model: Model, name: str, scan: Scan, target: Path) -> dict[str, str | float]:
    prepared = preprocess(scan, model.task.rules)
    if model.task.kind == "classification":
        probabilities = model.probabilities(prepared)
        names = model.task.classes.values()
        pairs = zip(names, probabilities, strict=True)
        return {"scan": name, **{f"p({n})": float(p) for n, p in pairs}}
    labels = model.segment(prepared)
    write_labels(target, labels, scan.affine)
    voxel_ml = float(np.prod(scan.spacing)) / 1000
    volumes = {
        f"{label_name} (ml)": float((labels == value).sum() * voxel_ml)
        for value, label_name in model.task.classes.items()
        if value != 0
    }
    return {"scan": name, "file": target.name, **volumes}


def _read(candidate: Candidate, root: Path, model: Model) -> Scan:
    path = root / candidate.path
    # As many volumes in one file as the network has channels, else exactly one.
    channels = model.card.backbone.in_channels
    volume: Literal["all"] | None = "all" if channels > 1 else None
    if candidate.files:
        files = [path / file for file in candidate.files]
        scan = read_series(files, path, volume, series=candidate.series)
    else:
        scan = read_scan(path, volume, series=candidate.series or None)
    if scan.array.shape[0] != channels:
        detail = f"has {scan.array.shape[0]} channel(s), the model was trained on {channels}"
        raise refuse("channel-count", path, detail)
    return scan


def _named(candidates: Sequence[Candidate], root: Path) -> Iterator[tuple[str, Candidate]]:
    """A file name for each scan: its own without suffix, numbered where two are alike."""
    seen: dict[str, int] = {}
    for candidate in candidates:
        path = (root / candidate.path).resolve()
        name = path.name if path.is_dir() else stem(path)
        seen[name] = seen.get(name, 0) + 1
        yield (name if seen[name] == 1 else f"{name}-{seen[name]}"), candidate
