"""The data card: what a collection holds, in counts and ranges, without a name in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_PAGE = """\
# Data {fingerprint}

{scans}

Sizes, spacings and extents are from least to most along R, A, S, as prepared.

## Left out

{refused}

## Preparation

{preprocessing}

## What is not said here

Counts and ranges only: no name of a file or a patient, no date, no place. Where the scans come
from, who may use them, ages and machines are not known to situs; whoever hands this on adds them.
"""

Row = Mapping[str, Any]


def data_card(
    records: Sequence[Row],
    refused: Sequence[Row],
    preprocessing: Mapping[str, Any],
    fingerprint: str,
) -> str:
    """The card in Markdown.

    Args:
        records: Of the scans, as :attr:`situs.store.Store.records` or a run's ``data.json`` hold
            them; of a run also with ``held_out``. What early ones did not record is unknown.
        refused: Of what was left out, with ``reason``.
        preprocessing: How scans were prepared.
        fingerprint: Of data and preprocessing.
    """
    return _PAGE.format(
        fingerprint=fingerprint,
        scans=table(_scans(records)),
        refused=table(_counted(refused, "reason")) if refused else "Nothing.",
        preprocessing=table(preprocessing) if preprocessing else "Unknown.",
    )


def table(values: Mapping[str, Any]) -> str:
    """Two columns in Markdown."""
    rows = "\n".join(f"| {key} | {_cell(value)} |" for key, value in values.items())
    return f"| | |\n| --- | --- |\n{rows}"


def _scans(records: Sequence[Row]) -> dict[str, str]:
    grids = [(r["shape"], r["spacing"]) for r in records if r.get("shape") and r.get("spacing")]
    extents = [[n * mm for n, mm in zip(*grid, strict=True)] for grid in grids]
    copies = [bool(r["near_duplicate_of"]) for r in records if "near_duplicate_of" in r]
    sizes = [r["bytes"] for r in records if r.get("bytes")]
    size = f"{sum(sizes) / 1e9:.3g} GB"
    rows = {
        "scans": str(len(records)),
        "patients": _people(records, "patient"),
        "studies": _people(records, "study"),
        "modalities": _listed(_counted(records, "modality")),
        "intensities": _listed(_counted(records, "intensity")),
        "channels": _listed(_counted(records, "channels")),
        "voxels": _span([shape for shape, _ in grids], 0),
        "spacing in mm": _span([spacing for _, spacing in grids], 2),
        "extent in mm": _span(extents, 0),
        "near-duplicates": str(sum(copies)) if len(copies) == len(records) else "unknown",
        "compressed size": size if len(sizes) == len(records) else "unknown",
    }
    if any("held_out" in record for record in records):
        rows["held out of training"] = str(sum(bool(r["held_out"]) for r in records))
    return rows


def _people(records: Sequence[Row], key: str) -> str:
    known = [record[key] for record in records if record.get(key)]
    unknown = len(records) - len(known)
    if not known:
        return "unknown"
    return str(len(set(known))) + (f", unknown of {unknown} scans" if unknown else "")


def _counted(rows: Sequence[Row], key: str) -> dict[str, int]:
    return dict(Counter(str(row.get(key) or "unknown") for row in rows).most_common())


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


def _span(values: Sequence[Sequence[float]], digits: int) -> str:
    axes = [(min(axis), max(axis)) for axis in zip(*values, strict=True)]
    if not axes:
        return "unknown"
    return " × ".join(
        f"{low:.{digits}f}" if low == high else f"{low:.{digits}f} to {high:.{digits}f}"
        for low, high in axes
    )


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
