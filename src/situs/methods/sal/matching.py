"""Matches between the two slices of a pair, held against the geometry they were cut with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from situs.geometry import Plane
from situs.methods.base import Batch
from situs.methods.sal.losses import best_matches

Array = npt.NDArray[np.float64]

# A position shows tissue where its mean rises this share of the slice's range above the least.
_TISSUE = 0.1


@dataclass(frozen=True)
class Matches:
    """Matches of one pair of slices; positions are (column, row) in pixels of each view.

    Attributes:
        start_px: ``(N, 2)`` positions in the first slice whose true place the second one shows.
        predicted_px: ``(N, 2)`` where the features put them in the second slice.
        true_px: ``(N, 2)`` the same place in the patient, as far as the gap between the slices
            lets one say: straight across.
        error_mm: ``(N,)``.
        chance_mm: Mean error of random positions of the second slice.
        trivial_mm: Mean error of the middle of the second slice.
        returned: ``(N,)`` whether the best match back ends at most one position away.
    """

    start_px: Array
    predicted_px: Array
    true_px: Array
    error_mm: Array
    chance_mm: float
    trivial_mm: float
    returned: npt.NDArray[np.bool_]


def planes_of(batch: Batch, sample: int, pair: int) -> tuple[Plane, Plane]:
    """The geometry of a pair's two views."""
    shape = tuple(batch["slices"].shape[-2:])

    def plane(side: int) -> Plane:
        place = sample, pair, side
        pixel = float(batch["pixel_mm"][place])
        origin, row, column = (
            batch[name][place].cpu().numpy() for name in ("origin_mm", "row_mm", "column_mm")
        )
        return Plane(origin, row, column, (shape[0], shape[1]), (pixel, pixel))

    return plane(0), plane(1)


def matches(
    positions_i: Tensor, positions_j: Tensor, image: Tensor, planes: tuple[Plane, Plane]
) -> Matches:
    """Match two slices both ways over their whole maps.

    Args:
        positions_i: ``(D, h, w)`` embeddings of the first slice.
        positions_j: ``(D, h, w)`` of the second.
        image: ``(rows, columns)`` the first slice; positions without tissue are left out.
        planes: Geometry of the two views.
    """
    h, w = positions_i.shape[1:]
    unit = [F.normalize(p[None].float(), dim=1) for p in (positions_i, positions_j)]
    to_j, to_i = (m[0].cpu().numpy() for m in best_matches(unit[0], unit[1]))
    grid = _grid_px((h, w), planes[0].shape)
    true = planes[1].to_px(planes[0].to_mm(grid))
    rows, columns = planes[1].shape
    shown = ((true > -0.5) & (true < [columns - 0.5, rows - 0.5])).all(-1) & _tissue(image, (h, w))
    back = np.abs(np.stack(np.divmod(to_i[to_j], w)) - np.stack(np.divmod(np.arange(h * w), w)))
    found = _grid_px((h, w), planes[1].shape)[to_j]
    pixel = planes[1].spacing[0]
    every = np.linalg.norm(true[shown, None] - _grid_px((h, w), planes[1].shape)[None], axis=-1)
    middle = np.array([(columns - 1) / 2, (rows - 1) / 2])
    return Matches(
        start_px=grid[shown],
        predicted_px=found[shown],
        true_px=true[shown],
        error_mm=np.linalg.norm(found - true, axis=-1)[shown] * pixel,
        chance_mm=float(every.mean() * pixel) if shown.any() else float("nan"),
        trivial_mm=float(np.linalg.norm(true[shown] - middle, axis=-1).mean() * pixel)
        if shown.any()
        else float("nan"),
        returned=(back.max(0) <= 1)[shown],
    )


def _grid_px(grid: tuple[int, int], shape: tuple[int, int]) -> Array:
    """Centres of the positions, ``(h·w, 2)`` (column, row) in pixels of the view."""
    (h, w), (rows, columns) = grid, shape
    row = (np.arange(h) + 0.5) * rows / h - 0.5
    column = (np.arange(w) + 0.5) * columns / w - 0.5
    return np.stack(np.meshgrid(column, row), axis=-1).reshape(-1, 2)


def _tissue(image: Tensor, grid: tuple[int, int]) -> npt.NDArray[np.bool_]:
    pooled = F.adaptive_avg_pool2d(image[None, None].float(), grid)[0, 0].flatten()
    low, high = pooled.min(), pooled.max()
    return np.asarray((pooled > low + _TISSUE * (high - low)).cpu().numpy())
