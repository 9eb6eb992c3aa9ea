"""The data section: what was used, what was refused and why, and how it looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from situs import text
from situs.files import sha256
from situs.observation import Panel, Volume, iter_panels
from situs.report.figures import data as figures
from situs.report.folder import RunFolder, refused_name
from situs.report.svg import Tile
from situs.scans.aliases import Names

_THUMBNAILS = 6
# Columns of the table of scans, where the records have them.
_COLUMNS = ("source", "modality", "shape", "spacing", "description", "held_out")
_MOST_ROWS = 500


def data_section(run: RunFolder) -> dict[str, Any]:
    """Everything the data section of a page shows."""
    records, refused = run.data["records"], run.data["refused"]
    volumes = observed_volumes(run)
    records = [{**r, "source": _called(r, run.names)} for r in records]
    headings = [c for c in _COLUMNS if any(r.get(c) not in (None, "") for r in records)]
    return {
        "sentence": _sentence(records, refused),
        "histograms": _histograms(records, volumes),
        "thumbnails": [
            (
                text.printable(run.names.of(v.name)) or f"scan {n + 1}",
                figures.thumbnail_tiles(v),
            )
            for n, v in enumerate(volumes[:_THUMBNAILS])
        ],
        "refused": [_refusal(item, run.names) for item in refused],
        "headings": [h.replace("_", " ") for h in headings],
        "rows": [[_cell(r.get(h)) for h in headings] for r in records[:_MOST_ROWS]],
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


def _sentence(records: list[dict[str, Any]], refused: list[dict[str, Any]]) -> str:
    if not records and not refused:
        return "The run left no record of its scans."
    kinds = Counter(str(r.get("modality") or "unknown") for r in records)
    held = sum(bool(r.get("held_out")) for r in records)
    only = next(iter(kinds)) if len(kinds) == 1 else ""
    what = {"": "scans", "unknown": "scans of unknown modality"}.get(only, f"{only} scans")
    parts = [f"{len(records)} {what} were used"]
    if not only:
        named = (
            f"{n} of unknown modality" if k == "unknown" else f"{n} {k}"
            for k, n in kinds.most_common()
        )
        parts.append(f" ({', '.join(named)})")
    if held:
        parts.append(f"; {held} of them only for the observations on this page")
    spacings = {tuple(r["spacing"]) for r in records if _is_triple(r.get("spacing"))}
    if len(spacings) == 1:
        parts.append(f"; every one has voxels of {_cell(next(iter(spacings)))} mm")
    parts.append(".")
    if refused:
        parts.append(f" {len(refused)} {'was' if len(refused) == 1 else 'were'} refused.")
    return text.printable("".join(parts))


def _histograms(records: list[dict[str, Any]], volumes: list[Volume]) -> list[Tile]:
    tiles = []
    for column, quantity, unit in (
        ("spacing", "spacing", "mm"),
        ("shape", "size", "voxels"),
    ):
        values = [r[column] for r in records if _is_triple(r.get(column))]
        if len({tuple(v) for v in values}) > 1:
            tiles.append(figures.axis_histogram(np.asarray(values, float), quantity, unit))
    if volumes:
        tiles.append(figures.intensity_histogram(volumes[:8]))
    return tiles


def _is_triple(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(isinstance(v, int | float) for v in value)
    )


def _called(record: Mapping[str, Any], names: Names) -> str:
    """What a scan is called on the page; its key where it has no name."""
    return names.of(str(record.get("key") or record.get("source") or ""))


def _refusal(item: Mapping[str, Any], names: Names) -> dict[str, str]:
    detail = str(item.get("detail", item.get("message", "")))
    return {
        "name": text.printable(names.of(refused_name(item))),
        "reason": text.printable(str(item.get("reason", ""))),
        "detail": text.printable(names.within(detail)),
    }


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, list | tuple):
        return " × ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in value)
    return text.printable("" if value is None else str(value))
