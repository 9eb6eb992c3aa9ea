"""What a study must know about each case before it splits them: patient, stratum, likeness."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from situs.catalog.near_duplicates import Thumbnail, pack, pairs_alike, thumbnail, unpack
from situs.datasets.dataset import Case, Dataset
from situs.files import remembered, sha256, write_json

_STRATA = 3
_FORMAT = 2  # of the cache; another one is measured anew


@dataclass(frozen=True)
class CaseFacts:
    """Facts about one case, or about a further scan to pretrain on.

    Attributes:
        name: In the data set.
        group: Patient; cases of one group never part company.
        stratum: Class, or third of the labelled volume.
        content: Hash of the image's voxels.
        thumbnail: The scan at ``16³``, for likeness.
        given: Split that the data set states, if any.
        annotation: Hash of geometry, label map and target.
        patient: As the data set says, before groups were merged.
    """

    name: str
    group: str
    stratum: str
    content: str
    thumbnail: Thumbnail
    given: str = ""
    annotation: str = ""
    patient: str = ""


def inspect(dataset: Dataset, cache: Path, cases: Sequence[Case] | None = None) -> list[CaseFacts]:
    """Read every case once; later calls take unchanged files from ``cache``.

    Args:
        dataset: Reads the cases.
        cache: File to remember them in.
        cases: By default those with a label.

    Raises:
        ScanRefused: For a case that cannot be read.
    """
    known: dict[str, dict[str, Any]] = {}
    document = remembered(cache)
    if document.get("format") == _FORMAT:
        known = {row["name"]: row for row in document["cases"]}
    cases = dataset.labelled if cases is None else cases
    rows = []
    for case in cases:
        row, stamp = known.get(case.name), _stamp(case)
        if row is None or row["stamp"] != stamp:
            row = {"name": case.name, "stamp": stamp, **_measure(dataset, case)}
        rows.append(row)
    write_json(cache, {"format": _FORMAT, "cases": rows})
    volumes = np.array([row["labelled_ml"] for row in rows])
    edges = np.quantile(volumes, np.linspace(0, 1, _STRATA + 1)[1:-1]) if rows else []
    thirds = np.searchsorted(edges, volumes)
    return [
        CaseFacts(
            name=case.name,
            group=case.group or case.name,
            stratum=str(case.target) if case.target is not None else str(third),
            content=row["content"],
            thumbnail=unpack(row["thumbnail"]),
            given=case.split,
            annotation=_digest([row["annotation"], case.target, sorted(dataset.classes.items())]),
            patient=case.group or case.name,
        )
        for case, row, third in zip(cases, rows, thirds, strict=True)
    ]


def near_duplicates(
    facts: Sequence[CaseFacts], correlation: float
) -> list[tuple[CaseFacts, CaseFacts, float]]:
    """Pairs of different patients whose scans are the same, or as like as ``correlation``."""
    groups = [f.group for f in facts]
    alike = pairs_alike(
        [f.thumbnail for f in facts], correlation, skip=lambda i, j: groups[i] == groups[j]
    )
    found = [(facts[i], facts[j], r) for i, j, r in alike]
    contents: dict[str, CaseFacts] = {}
    listed = {(a.name, b.name) for a, b, _ in found}
    for fact in facts:
        first = contents.setdefault(fact.content, fact)
        if first.group != fact.group and (first.name, fact.name) not in listed:
            found.append((first, fact, 1.0))
    return found


def fingerprint(facts: Iterable[CaseFacts]) -> str:
    """Hash of all cases' names, images and labels."""
    return _digest(sorted((f.name, f.content, f.annotation) for f in facts))[:16]


def contents(facts: Iterable[CaseFacts]) -> str:
    """Hash of all cases' names and images, whatever their labels."""
    return _digest(sorted((Path(f.name).name, f.content) for f in facts))[:16]


def _measure(dataset: Dataset, case: Case) -> dict[str, Any]:
    image, label = dataset.read(case)
    annotation = [image.affine.round(4).tolist(), "" if label is None else _voxels(label.array)]
    labelled = 0.0 if label is None else float(np.count_nonzero(label.array))
    return {
        "content": _voxels(image.array),
        "annotation": _digest(annotation),
        "labelled_ml": labelled * float(np.prod(image.spacing)) / 1000,
        "thumbnail": pack(thumbnail(image.array, image.affine)),
    }


def _voxels(array: npt.NDArray[Any]) -> str:
    array = np.ascontiguousarray(array)
    return sha256(str((array.shape, array.dtype.str)), array.tobytes())


def _digest(value: Any) -> str:
    return sha256(json.dumps(value, default=str))


def _stamp(case: Case) -> list[Any]:
    named = [*case.image, *([case.label] if case.label else [])]
    files = [f for path in named for f in (sorted(path.iterdir()) if path.is_dir() else [path])]
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file()]
