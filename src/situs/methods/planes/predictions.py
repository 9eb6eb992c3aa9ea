"""What the network was shown and what it said, as arrays that scores and figures are made of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from situs.methods.base import Batch

Array = npt.NDArray[np.float64]


class Seen(NamedTuple):
    """A batch and what the network said of it, as arrays over B samples of K images, R roles."""

    images: Array
    heatmaps: Array
    lines: Array
    confidence: Array
    true: Array
    visible: npt.NDArray[np.bool_]
    pixel_mm: Array
    affine: Array
    constant: Array


def pixel_affines(batch: Batch) -> Array:
    """``(B, K, 4, 4)``: pixel (column, row, 0) of each image to RAS mm."""
    row, column, origin = (
        batch[f"{name}_mm"].cpu().numpy().astype(np.float64) for name in ("row", "column", "origin")
    )
    pixel = batch["pixel_mm"].cpu().numpy().astype(np.float64)[..., None]
    columns = (row * pixel, column * pixel, np.cross(row, column), origin)
    affine = np.zeros((*row.shape[:-1], 4, 4))
    affine[..., :3, :] = np.stack(columns, axis=-1)
    affine[..., 3, 3] = 1.0
    return affine


def mean(values: Array) -> float:
    """Of what is finite; NaN of nothing."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def each(values: Array) -> tuple[float, ...]:
    """:func:`mean` of each row."""
    return tuple(mean(row) for row in values)
