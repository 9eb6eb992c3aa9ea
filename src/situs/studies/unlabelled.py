"""Scans to pretrain on that no test case may be among: read once, compared by name and by look."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from situs.catalog.catalog import build_catalog
from situs.catalog.near_duplicates import pack, thumbnail, unpack
from situs.datasets.dataset import DatasetError, DatasetOptions
from situs.datasets.layouts.common import patient_of
from situs.files import remembered, write_json
from situs.places import ON_DISK, check_local
from situs.scans.formats import stem
from situs.scans.names import unescaped
from situs.scans.privacy import digest_patient
from situs.studies.cases import CaseFacts, near_duplicates
from situs.studies.splits import LeakError

_FORMAT = 3  # of the cache; another one is read anew


def read_unlabelled(paths: Sequence[Path], options: DatasetOptions, cache: Path) -> list[CaseFacts]:
    """Usable scans below ``paths``, each once, with what tells whether a tested scan is among them.

    The list is fixed by the first call for the same paths (kept in ``cache``), so that a study
    does not change while its data folder grows.

    Args:
        paths: Files and folders.
        options: Their ``patient`` finds the patient in a scan's file name.
        cache: File to remember the scans in.

    Returns:
        Facts whose names are the scans' paths.

    Raises:
        SitusError: For a URL.
    """
    for place in paths:
        check_local(place, ON_DISK)
    asked = [os.path.abspath(p) for p in paths]
    known = remembered(cache)
    if known.get("paths") == asked and known.get("format") == _FORMAT:
        return [_facts(row, options) for row in known["scans"]]
    catalog = build_catalog(paths)
    root = Path(os.path.abspath(catalog.root)) if catalog.root is not None else Path()
    rows = []
    for entry in catalog.unique:
        scan = catalog.read(entry)
        path = str(root / unescaped(entry.path))
        row = {"path": path, "patient": entry.patient, "content": entry.content}
        rows.append({**row, "thumbnail": pack(thumbnail(scan.array, scan.affine))})
    write_json(cache, {"format": _FORMAT, "paths": asked, "scans": rows})
    return [_facts(row, options) for row in rows]


def unknown_to_test(
    scans: Sequence[CaseFacts],
    tested: Sequence[CaseFacts],
    correlation: float,
    action: str = "refuse",
) -> list[CaseFacts]:
    """The scans that show no tested patient: neither by what they are called nor by their looks.

    Raises:
        LeakError: If there are others and ``action`` is ``"refuse"``; names them.
    """
    if not scans:
        return []
    patients = {name for fact in tested for name in _names(fact)}
    known = {fact.name for fact in scans if patients & _names(fact)}
    tested_names = {fact.name for fact in tested}
    for a, b, _ in near_duplicates([*tested, *scans], correlation):
        if (a.name in tested_names) != (b.name in tested_names):
            known |= {a.name, b.name} - tested_names
    if known and action == "refuse":
        shown = ", ".join(sorted(Path(name).name for name in known)[:5])
        raise LeakError(
            f"{len(known)} of the unlabelled scans show tested patients: {shown}"
            f"{', …' if len(known) > 5 else ''}. Take them out, set near_duplicates: group to "
            "leave them out, or raise duplicate_correlation if they only look alike"
        )
    return [fact for fact in scans if fact.name not in known]


def _names(fact: CaseFacts) -> set[str]:
    """All that a patient may be called: as files say, and as tables and headers are hashed."""
    told = {fact.group, fact.patient} - {""}
    plain = {name for name in told if not Path(name).is_absolute()}  # hashing is slow on purpose
    return plain | {digest_patient(name) for name in plain}


def _facts(row: dict[str, str], options: DatasetOptions) -> CaseFacts:
    path = row["path"]
    name = stem(Path(path))
    try:
        told = patient_of(name, options)
    except DatasetError:
        told = name
    # Where a name tells of no patient every scan is its own, told from a case by its path.
    group = told if told != name else path
    return CaseFacts(
        name=path,
        group=group,
        stratum="",
        content=row["content"],
        thumbnail=unpack(row["thumbnail"]),
        patient=row["patient"] or "",
    )
