"""The data section: what was used, what was refused and why, and how it looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from situs import text
from situs.files import sha256
from situs.observation import Panel, Volume, iter_panels
from situs.report.figures import data as figures
from situs.report.folder import RunFolder
from situs.report.svg import Tile
from situs.scans.aliases import Names
from situs.training.record import RefusedRow, ScanRow

_THUMBNAILS = 6
# Columns of the table of scans, where the records have them.
_COLUMNS = ("source", "modality", "shape", "spacing", "description", "held_out")
_MOST_ROWS = 500


def data_section(run: RunFolder) -> dict[str, Any]:
    """Everything the data section of a page shows."""
    rows, refused = run.data.records, run.data.refused
    volumes = observed_volumes(run)
    named = [row.model_copy(update={"source": _called(row, run.names)}) for row in rows]
    headings = [c for c in _COLUMNS if any(getattr(row, c) not in (None, "") for row in named)]
    return {
        "sentence": _sentence(rows, refused, run.record.held_out_is_training),
        "histograms": _histograms(rows, volumes),
        "thumbnails": [
            (
                text.printable(run.names.of(v.name)) or f"scan {n + 1}",
                figures.thumbnail_tiles(v),
            )
            for n, v in enumerate(volumes[:_THUMBNAILS])
        ],
        "refused": [_refusal(item, run.names) for item in refused],
        "headings": [h.replace("_", " ") for h in headings],
        "rows": [[_cell(getattr(row, h)) for h in headings] for row in named[:_MOST_ROWS]],
    }


def observed_volumes(run: RunFolder) -> list[Volume]:
    """The distinct scans that the last observations carry."""
    found: dict[str, Volume] = {}
    for observation in run.latest:
        for _, panel in iter_panels(observation):
            for volume in _volumes(panel):
                array = np.ascontiguousarray(volume.array)
                if array.ndim == 3:
                    found.setdefault(sha256(array.tobytes()), volume)
    solid = [v for v in found.values() if min(v.array.shape) > 1]
    return solid or list(found.values())


def _volumes(panel: Panel) -> Iterator[Volume]:
    # Masked and rebuilt images are no data; the first one of a row is.
    for name in ("volume", "left"):
        if isinstance(volume := getattr(panel, name, None), Volume):
            yield volume
    yield from getattr(panel, "volumes", ())[:1]


def _sentence(
    rows: Sequence[ScanRow], refused: Sequence[RefusedRow], held_out_is_training: bool
) -> str:
    if not rows and not refused:
        return "The run left no record of its scans."
    kinds = Counter(row.modality or "unknown" for row in rows)
    held = sum(row.held_out for row in rows)
    only = next(iter(kinds)) if len(kinds) == 1 else ""
    what = {"": "scans", "unknown": "scans of unknown modality"}.get(only, f"{only} scans")
    parts = [f"{len(rows)} {what} were used"]
    if not only:
        named = (
            f"{n} of unknown modality" if k == "unknown" else f"{n} {k}"
            for k, n in kinds.most_common()
        )
        parts.append(f" ({', '.join(named)})")
    if held and not held_out_is_training:
        parts.append(f"; {held} of them only for the observations on this page")
    spacings = {row.spacing for row in rows if row.spacing}
    if len(spacings) == 1:
        parts.append(f"; every one has voxels of {_cell(next(iter(spacings)))} mm")
    parts.append(".")
    if refused:
        parts.append(f" {len(refused)} {'was' if len(refused) == 1 else 'were'} refused.")
    return text.printable("".join(parts))


def _histograms(rows: Sequence[ScanRow], volumes: list[Volume]) -> list[Tile]:
    tiles = []
    for column, quantity, unit in (
        ("spacing", "spacing", "mm"),
        ("shape", "size", "voxels"),
    ):
        values = [getattr(row, column) for row in rows if getattr(row, column)]
        if len(set(values)) > 1:
            tiles.append(figures.axis_histogram(np.asarray(values, float), quantity, unit))
    if volumes:
        tiles.append(figures.intensity_histogram(volumes[:8]))
    return tiles


def _called(row: ScanRow, names: Names) -> str:
    """What a scan is called on the page; its key where it has no name."""
    return names.of(row.key or row.source)


def _refusal(row: RefusedRow, names: Names) -> dict[str, str]:
    return {
        "name": text.printable(names.of(row.source)),
        "reason": text.printable(row.reason),
        "detail": text.printable(names.within(row.detail)),
    }


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, list | tuple):
        return " × ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in value)
    return text.printable("" if value is None else str(value))
