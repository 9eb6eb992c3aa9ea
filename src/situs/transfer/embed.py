"""``situs embed``: frozen features of scans, or of places in them, as a table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from situs.backbones import Backbone
from situs.config import validate
from situs.errors import ConfigError, RunError, ScanRefused, setting
from situs.files import writing
from situs.geometry.stacks import stack_axis
from situs.places import ON_DISK, check_local
from situs.scans.discovery import common_root, discover
from situs.store import Preprocessing, Store, preprocess
from situs.transfer.attribution import grouped_inputs, named_inputs
from situs.transfer.features import scan_feature, voxel_features
from situs.transfer.predict import read_input
from situs.version import __version__
from situs.weights import load_card, load_encoder

_PROVENANCE = b"situs"
_OTHER_TABLES = (".csv", ".tsv", ".txt", ".json", ".xlsx", ".npy", ".npz")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Embedded:
    """A table of features.

    Attributes:
        path: The Parquet file.
        scans: How many scans are in it.
        rows: How many rows.
        width: Numbers of a feature.
        refused: Scans that could not be used, and why.
    """

    path: Path
    scans: int
    rows: int
    width: int
    refused: tuple[ScanRefused, ...]


@dataclass(frozen=True)
class _Image:
    """A prepared scan, wherever it comes from."""

    name: str
    modality: str
    array: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64]
    background: tuple[float, ...]

    @property
    def spacing(self) -> list[float]:
        """Millimetres along each axis."""
        return [float(s) for s in np.linalg.norm(self.affine[:3, :3], axis=0)]


def embed(
    run: str | Path,
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    grid_mm: float | None = None,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Embedded:
    """Write the features that a frozen encoder gives scans to a Parquet file.

    One row a scan (the mean over space at every scale, side by side), or one row a place of a
    regular grid. Columns: ``scan``, ``modality``, ``spacing_mm``, with a grid ``position_mm``
    (RAS), and ``feature``. The file's metadata, under ``situs``, says which weights and which
    preprocessing made it.

    Args:
        run: Run, result or weights folder.
        paths: One store that was prepared as the run's was, or scans and folders of scans.
        out: The file, ``….parquet``.
        grid_mm: Distance of places along each axis; None for one row a scan.
        overwrite: Replace ``out``.
        progress: Told (done, total).

    Raises:
        ConfigError: If ``grid_mm`` is not positive.
        RunError: If ``out`` is there already, has the suffix of another kind of table, or no scan
            could be used.
        StoreError: If a store was prepared with other preprocessing than the run's.
        TransferError: If the run has no weights.
    """
    out = Path(out)
    if grid_mm is not None and not grid_mm > 0:
        raise ConfigError(f"the distance of places must be positive, got {grid_mm} mm")
    if out.suffix.lower() in _OTHER_TABLES:
        raise RunError(f"{setting('out')}: {out} is written as Parquet; call it {out.stem}.parquet")
    if out.exists() and not overwrite:
        raise RunError(f"{out} is there already; choose another file, or say --overwrite")
    card, backbone = load_card(run), load_encoder(run)
    preprocessing = validate(Preprocessing, card.preprocessing or {"spacing": "native"})
    refused: list[ScanRefused] = []
    rows: list[dict[str, Any]] = []
    names: list[str] = []
    for image in _images([Path(p) for p in paths], preprocessing, backbone, refused, progress):
        names.append(image.name)
        rows += _rows(backbone, image, grid_mm)
    if not rows:
        why = "; ".join(str(error) for error in refused[:3])
        where = ", ".join(map(str, paths))
        raise RunError(f"no scan below {where} could be used{': ' + why if why else ''}")
    provenance = {
        "situs_version": __version__,
        "weights": Path(run).name,
        "encoder_sha256": card.checksums.get("encoder.safetensors", ""),
        "card": card.model_dump(mode="json", exclude={"checksums", "lacks"}),
        "scales": list(backbone.channels),
        "strides": [list(s) for s in backbone.strides],
        "grid_mm": grid_mm,
        "refused": dict(Counter(error.reason for error in refused)),
    }
    table = _table(rows, sum(backbone.channels), provenance)
    with writing(out, ".parquet") as part:
        pq.write_table(table, part)
    return Embedded(out, len(names), len(rows), sum(backbone.channels), tuple(refused))


def read_embedding(path: str | Path) -> tuple[pa.Table, dict[str, Any]]:
    """A table that :func:`embed` wrote, and its provenance.

    Raises:
        RunError: If the file is not one.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path} is not a Parquet file: {error}") from None
    known = (table.schema.metadata or {}).get(_PROVENANCE)
    if known is None:
        raise RunError(f"{path} was not written by 'situs embed'")
    return table, json.loads(known)


def _images(
    paths: Sequence[Path],
    preprocessing: Preprocessing,
    backbone: Backbone,
    refused: list[ScanRefused],
    progress: Progress,
) -> Iterator[_Image]:
    if len(paths) == 1 and Store.is_store(paths[0]):
        store = Store.open(paths[0], preprocessing)
        for number, scan in enumerate(store):
            progress(number, len(store))
            array = scan.array()
            yield _Image(scan.key, scan.modality, array, scan.affine, tuple(scan.background))
        progress(len(store), len(store))
        return
    for path in paths:
        check_local(path, ON_DISK)
        if not path.exists():
            raise RunError(f"{path} does not exist")
    root = common_root(paths)
    found = discover(paths, root)
    refused += found.refused
    inputs = named_inputs(grouped_inputs(found.candidates, backbone.in_channels), root)
    for number, item in enumerate(inputs):
        progress(number, len(inputs))
        try:
            prepared = preprocess(
                read_input(item.channels, root, backbone.in_channels), preprocessing
            )
        except ScanRefused as error:
            refused.append(error)
            continue
        background = tuple(prepared.background)
        yield _Image(item.name, prepared.modality, prepared.array, prepared.affine, background)
    progress(len(inputs), len(inputs))


def _rows(backbone: Backbone, image: _Image, grid_mm: float | None) -> list[dict[str, Any]]:
    axis = None
    if backbone.spatial_dims == 2:
        found = stack_axis(image.array.shape[1:], image.spacing)
        axis = 2 if found is None else found
    known = {"scan": image.name, "modality": image.modality, "spacing_mm": image.spacing}
    if grid_mm is None:
        return [{**known, "feature": scan_feature(backbone, image.array, axis, image.background)}]
    voxels = _grid(image.array.shape[1:], image.spacing, grid_mm)
    features = voxel_features(backbone, image.array, voxels, axis, image.background)
    places = voxels @ image.affine[:3, :3].T + image.affine[:3, 3]
    return [
        {**known, "position_mm": place.tolist(), "feature": feature}
        for place, feature in zip(places, features, strict=True)
    ]


def _grid(shape: Sequence[int], spacing: Sequence[float], grid_mm: float) -> npt.NDArray[np.int64]:
    """Voxels ``(N, 3)`` about ``grid_mm`` apart, as far from one border as from the other."""
    lines = []
    for n, s in zip(shape, spacing, strict=True):
        step = max(1, round(grid_mm / s))
        lines.append(np.arange((n - 1) % step // 2, n, step))
    return np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 3).astype(np.int64)


def _table(rows: Sequence[dict[str, Any]], width: int, provenance: dict[str, Any]) -> pa.Table:
    triple = pa.list_(pa.float64(), 3)
    fields = [pa.field("scan", pa.string()), pa.field("modality", pa.string())]
    fields += [pa.field("spacing_mm", triple)]
    fields += [pa.field("position_mm", triple)] if "position_mm" in rows[0] else []
    fields += [pa.field("feature", pa.list_(pa.float32(), width))]
    schema = pa.schema(fields, metadata={_PROVENANCE: json.dumps(provenance)})
    return pa.table({f.name: [row[f.name] for row in rows] for f in fields}, schema=schema)
