"""What the network was shown and what it said, as arrays that scores and figures are made of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from situs.geometry.line_fit import fit_line
from situs.methods.base import Batch
from situs.methods.planes.config import PlanesConfig
from situs.methods.planes.heads import Predicted
from situs.methods.planes.scoring import constant_lines

Array = npt.NDArray[np.float64]


class Predictions(NamedTuple):
    """What the network says of B samples of K images, for R roles.

    ``heatmaps (B, K, R, rows, columns)``, the ``lines (B, K, R, 3)`` fitted to them with their
    ``confidence (B, K, R)``, ``location (B, K)``; and ``features (B·K, D)``.
    """

    heatmaps: Array
    lines: Array
    confidence: Array
    location: Array
    features: Tensor


class Truth(NamedTuple):
    """Of the same images: true ``lines (B, K, R, 3)``, which are ``visible (B, K, R)``, and more.

    ``constant (B, K, R, 3)`` are the mean lines of each pair of roles, ``pixel_mm (B, K)``,
    ``shape`` (rows, columns).
    """

    lines: Array
    visible: npt.NDArray[np.bool_]
    constant: Array
    pixel_mm: Array
    shape: tuple[int, int]


def predictions(config: PlanesConfig, out: Predicted, batch: Batch) -> Predictions:
    """Lines fitted to heat maps, by sample."""
    leading = batch["images"].shape[:2]
    heatmaps = out.heatmaps.float().cpu().numpy()
    lines, confidence = fit_line(heatmaps, (1.0, 1.0), config.sigma)
    return Predictions(
        heatmaps=heatmaps.reshape(*leading, *heatmaps.shape[1:]),
        lines=lines.reshape(*leading, *lines.shape[1:]),
        confidence=confidence.reshape(*leading, -1),
        location=out.location.double().cpu().numpy().reshape(leading),
        features=out.features,
    )


def truth(batch: Batch) -> Truth:
    """True and mean lines of a batch."""
    lines = batch["lines"].cpu().numpy().astype(np.float64)
    visible = batch["visible"].cpu().numpy()
    rows, columns = batch["images"].shape[-2:]
    constant = constant_lines(
        lines.reshape(-1, *lines.shape[2:]),
        visible.reshape(-1, visible.shape[2]),
        (rows, columns),
        batch["role"].cpu().numpy().ravel(),
    )
    pixel_mm = batch["pixel_mm"].cpu().numpy()
    return Truth(lines, visible, constant.reshape(lines.shape), pixel_mm, (rows, columns))


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
