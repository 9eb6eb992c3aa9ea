"""Siemens mosaics: the slices of a volume as tiles of one picture."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from situs.scans.refusals import refuse


class Tile(NamedTuple):
    """A part of a picture: first row and column, and rows and columns."""

    row: int
    column: int
    shape: tuple[int, int]


def mosaic_tiles(dataset: Dataset, file: Path) -> list[tuple[Tile, tuple[float, ...]]]:
    """Tiles of a mosaic, and the position in LPS mm of the first pixel of each.

    The position in the header is that of a slice as large as the whole picture, centred where
    the slices are centred (nibabel, *Siemens mosaic format*); the direction and the distance
    of the slices are in Siemens' private header.

    Raises:
        ScanRefused: ``unsupported-dicom`` where the private header is missing.
    """
    csa = _csa(dataset)
    count = int(_value(csa, "NumberOfImagesInMosaic") or _private_count(dataset))
    side = math.ceil(math.sqrt(count))
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if count < 1 or rows % side or columns % side:
        detail = "slices are tiled into one picture (mosaic), and their number is not told"
        raise refuse("unsupported-dicom", file, detail)
    shape = rows // side, columns // side
    row, column = np.reshape([float(v) for v in dataset.ImageOrientationPatient], (2, 3))
    between_rows, between_columns = (float(v) for v in dataset.PixelSpacing)
    step = float(dataset.get("SpacingBetweenSlices") or dataset.get("SliceThickness") or 0)
    normal = np.cross(row, column)
    told = _vector(csa, "SliceNormalVector")
    if told is not None and told @ normal < 0:
        normal = -normal
    if step <= 0:
        raise refuse("bad-spacing", file, "a mosaic without a distance between its slices")
    first = np.array([float(v) for v in dataset.ImagePositionPatient])
    first += row * between_columns * (columns - shape[1]) / 2
    first += column * between_rows * (rows - shape[0]) / 2
    return [
        (
            Tile(k // side * shape[0], k % side * shape[1], shape),
            tuple((first + k * step * normal).tolist()),
        )
        for k in range(count)
    ]


def _csa(dataset: Dataset) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel warns that its DICOM readers are experimental
        from nibabel.nicom import csareader  # noqa: PLC0415 - only mosaics need it

    try:
        found = csareader.get_csa_header(dataset)
    except Exception:  # what it raises on damaged bytes is not documented
        found = None
    return found["tags"] if found else {}


def _value(tags: dict[str, Any], name: str) -> Any:
    items = tags.get(name, {}).get("items") or []
    return items[0] if items else None


def _vector(tags: dict[str, Any], name: str) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    items = tags.get(name, {}).get("items") or []
    return np.array(items, dtype=float) if len(items) == 3 else None


def _private_count(dataset: Dataset) -> int:
    try:
        value: Any = dataset.private_block(0x0019, "SIEMENS MR HEADER")[0x0A].value
    except KeyError:
        return 0
    if isinstance(value, bytes):  # implicit VR; an unsigned short
        return int.from_bytes(value[:2], "little")
    return int(value)
