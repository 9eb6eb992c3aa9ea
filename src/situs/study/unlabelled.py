"""Further scans to pretrain on: read once, and kept apart from tested patients."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from situs.scans.catalog import build_catalog
from situs.study.cases import CaseFacts, near_duplicates, pack, thumbnail, unpack
from situs.study.splits import LeakError
from situs.training.run import write_json


def read_unlabelled(
    paths: Sequence[Path], patient: str | None, cache: Path
) -> list[tuple[Path, CaseFacts]]:
    """Usable scans below ``paths``, each once, with what tells whether a tested scan is among them.

    The list is fixed by the first call for the same paths (kept in ``cache``), so that a study
    does not change while its data folder grows.

    Args:
        paths: Files and folders.
        patient: Regular expression whose first group in a scan's path is the patient.
        cache: File to remember the scans in.
    """
    asked = [os.path.abspath(p) for p in paths]
    if cache.is_file():
        known = json.loads(cache.read_text(encoding="utf-8"))
        if known["paths"] == asked:
            return [(Path(row["path"]), _facts(row, patient)) for row in known["scans"]]
    catalog = build_catalog(paths)
    root = Path(os.path.abspath(catalog.root)) if catalog.root is not None else Path()
    rows = [
        {
            "path": str(root / entry.path),
            "content": entry.content,
            "thumbnail": pack(thumbnail(catalog.read(entry).array)),
        }
        for entry in catalog.unique
    ]
    write_json(cache, {"paths": asked, "scans": rows})
    return [(Path(row["path"]), _facts(row, patient)) for row in rows]


def unknown_to_test(
    scans: Sequence[tuple[Path, CaseFacts]],
    tested: Sequence[CaseFacts],
    correlation: float,
    action: str = "refuse",
) -> list[Path]:
    """The scans that show no tested patient.

    Raises:
        LeakError: If there are others and ``action`` is ``"refuse"``; names them.
    """
    patients = {fact.group for fact in tested}
    known = {fact.name for _, fact in scans if fact.group in patients}
    tested_names = {fact.name for fact in tested}
    for a, b, _ in near_duplicates([*tested, *(fact for _, fact in scans)], correlation):
        if a.name in tested_names and b.name not in tested_names:
            known.add(b.name)
    if known and action == "refuse":
        shown = ", ".join(sorted(Path(name).name for name in known)[:5])
        raise LeakError(
            f"{len(known)} of the unlabelled scans show tested patients: {shown}"
            f"{', …' if len(known) > 5 else ''}. Take them out, or set near_duplicates: group "
            "to leave them out"
        )
    return [path for path, fact in scans if fact.name not in known]


def _facts(row: dict[str, str], patient: str | None) -> CaseFacts:
    path = row["path"]
    found = re.search(patient, Path(path).name) if patient else None
    # Without a rule every scan is its own patient, told from a case's name by its path.
    group = (found.group(1) if found.groups() else found.group(0)) if found else path
    return CaseFacts(path, group, "", row["content"], unpack(row["thumbnail"]))
