"""What a study must know about each case before it splits them: patient, stratum, likeness."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from situs.scans.datasets import Case, Dataset
from situs.training.run import write_json

_THUMBNAIL = 16
_STRATA = 3


@dataclass(frozen=True)
class CaseFacts:
    """Facts about one case.

    Attributes:
        name: In the data set.
        group: Patient; cases of one group never part company.
        stratum: Class, or third of the labelled volume.
        content: Hash of the voxels.
        thumbnail: The scan at ``16³``, zero mean and unit norm, for likeness.
        given: Split that the data set states, if any.
    """

    name: str
    group: str
    stratum: str
    content: str
    thumbnail: npt.NDArray[np.float32]
    given: str = ""


def inspect(dataset: Dataset, cache: Path) -> list[CaseFacts]:
    """Read every labelled case once; later calls take unchanged files from ``cache``.

    Raises:
        ScanRefused: For a case that cannot be read.
    """
    known: dict[str, dict[str, Any]] = {}
    if cache.is_file():
        known = {row["name"]: row for row in json.loads(cache.read_text(encoding="utf-8"))}
    rows = []
    for case in dataset.labelled:
        row = known.get(case.name)
        stamp = _stamp(case)
        if row is None or row["stamp"] != stamp:
            row = {"name": case.name, "stamp": stamp, **_measure(dataset, case)}
        rows.append(row)
    write_json(cache, rows)
    volumes = np.array([row["labelled_ml"] for row in rows])
    edges = np.quantile(volumes, np.linspace(0, 1, _STRATA + 1)[1:-1])
    thirds = np.searchsorted(edges, volumes)
    return [
        CaseFacts(
            name=case.name,
            group=case.group or case.name,
            stratum=str(case.target) if case.target is not None else str(third),
            content=row["content"],
            thumbnail=unpack(row["thumbnail"]),
            given=case.split,
        )
        for case, row, third in zip(dataset.labelled, rows, thirds, strict=True)
    ]


def thumbnail(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A scan ``(C, X, Y, Z)`` reduced to ``16³``, zero mean and unit norm, flat.

    Ranks stand in for intensities, so that a change of window or units hides no duplicate.
    """
    volume = torch.from_numpy(np.ascontiguousarray(array[0], dtype=np.float32))
    small = F.adaptive_avg_pool3d(volume[None], _THUMBNAIL).numpy().ravel()
    ranks = small.argsort(kind="stable").argsort(kind="stable").astype(np.float32)
    ranks -= ranks.mean()
    return np.asarray(ranks / np.linalg.norm(ranks), dtype=np.float32)


def pack(values: npt.NDArray[np.float32]) -> str:
    """A thumbnail as text."""
    return base64.b64encode(values.astype("<f2").tobytes()).decode()


def unpack(text: str) -> npt.NDArray[np.float32]:
    """What :func:`pack` packed."""
    return np.frombuffer(base64.b64decode(text), dtype="<f2").astype(np.float32)


def near_duplicates(
    facts: Sequence[CaseFacts], correlation: float
) -> list[tuple[CaseFacts, CaseFacts, float]]:
    """Pairs of different patients whose scans are the same, or correlate above a threshold."""
    thumbnails = np.stack([f.thumbnail for f in facts])
    found = []
    block = 512
    for low in range(0, len(facts), block):
        likeness = thumbnails[low : low + block] @ thumbnails.T
        rows, columns = np.nonzero(likeness >= correlation)
        for i, j in zip((rows + low).tolist(), columns.tolist(), strict=True):
            if i < j and facts[i].group != facts[j].group:
                found.append((facts[i], facts[j], float(likeness[i - low, j])))
    contents: dict[str, CaseFacts] = {}
    listed = {(a.name, b.name) for a, b, _ in found}
    for fact in facts:
        first = contents.setdefault(fact.content, fact)
        if first.group != fact.group and (first.name, fact.name) not in listed:
            found.append((first, fact, 1.0))
    return found


def fingerprint(facts: Sequence[CaseFacts]) -> str:
    """Hash of all cases' names and contents."""
    text = json.dumps(sorted((f.name, f.content) for f in facts))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _measure(dataset: Dataset, case: Case) -> dict[str, Any]:
    image, label = dataset.read(case)
    array = np.ascontiguousarray(image.array)
    digest = hashlib.sha256(str((array.shape, array.dtype.str)).encode())
    digest.update(array.tobytes())
    labelled = 0.0 if label is None else float(np.count_nonzero(label.array))
    return {
        "content": digest.hexdigest(),
        "labelled_ml": labelled * float(np.prod(image.spacing)) / 1000,
        "thumbnail": pack(thumbnail(array)),
    }


def _stamp(case: Case) -> list[Any]:
    files = [*case.image, *([case.label] if case.label else [])]
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file()]
