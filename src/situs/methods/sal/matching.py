"""Matches between the two slices of a pair, held against the geometry they were cut with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from situs.geometry import Plane
from situs.methods.base import Batch
from situs.methods.slices import plane_at
from situs.observation import Volume

Array = npt.NDArray[np.float64]

# A position shows tissue where its mean rises this share of the slice's range above the least.
_TISSUE = 0.1  # ours
_AT_ONCE = 2**22  # similarities, so that fine maps need little memory


@dataclass(frozen=True)
class Matches:
    """Matches of one pair of slices; positions are (column, row) in pixels of each view.

    Attributes:
        start_px: ``(N, 2)`` positions in the first slice whose true place the second one shows.
        predicted_px: ``(N, 2)`` where the features put them in the second slice.
        true_px: ``(N, 2)`` the same place in the patient, as far as the gap between the slices
            lets one say: straight across.
        error_mm: ``(N,)``.
        chance_mm: Mean error of random positions of what the second slice shows.
        same_mm: ``(N,)`` error of the same place in the view.
        middle_mm: ``(N,)`` error of the middle of what the second slice shows.
        returned: ``(N,)`` whether the best match back ends at most one position away.
    """

    start_px: Array
    predicted_px: Array
    true_px: Array
    error_mm: Array
    chance_mm: float
    same_mm: Array
    middle_mm: Array
    returned: npt.NDArray[np.bool_]


def planes_of(batch: Batch, sample: int, pair: int) -> tuple[Plane, Plane]:
    """The geometry of a pair's two views."""
    first, second = (plane_at(batch, "slices", sample, pair, side) for side in range(2))
    return first, second


def slice_volume(image: Array, plane: Plane, name: str) -> Volume:
    """An image as a volume one voxel thick: rows along the first axis, columns the second."""
    affine = np.eye(4)
    affine[:3, 0] = plane.spacing[0] * plane.column_mm
    affine[:3, 1] = plane.spacing[1] * plane.row_mm
    affine[:3, 2] = plane.normal_mm
    affine[:3, 3] = plane.origin_mm
    return Volume(image[..., None], affine, name)


@dataclass(frozen=True)
class Disc:
    """What a view shows of its slice: its middle ``(2,)`` (column, row) and radius in pixels."""

    center_px: Array
    radius_px: float

    def holds(self, points_px: Array) -> npt.NDArray[np.bool_]:
        """Which of the points ``(…, 2)`` lie in it."""
        away: Array = np.linalg.norm(points_px - self.center_px, axis=-1)
        return away <= self.radius_px


def discs_of(batch: Batch, sample: int, pair: int) -> tuple[Disc, Disc]:
    """The discs of a pair's two views."""
    first, second = (
        Disc(
            plane.to_px(batch["disc_mm"][sample, pair, side].cpu().numpy()),
            float(batch["radius_mm"][sample, pair, side]) / plane.spacing[0],
        )
        for side, plane in enumerate(planes_of(batch, sample, pair))
    )
    return first, second


def matches(
    positions_i: Tensor,
    positions_j: Tensor,
    image: Tensor,
    planes: tuple[Plane, Plane],
    discs: tuple[Disc, Disc],
) -> Matches:
    """Match what two slices show, both ways.

    Args:
        positions_i: ``(D, h, w)`` embeddings of the first slice.
        positions_j: ``(D, h, w)`` of the second.
        image: ``(rows, columns)`` the first slice; positions without tissue are left out.
        planes: Geometry of the two views.
        discs: What they show.
    """
    h, w = positions_i.shape[1:]
    grid = _grid_px((h, w), planes[0].shape)
    seen = [disc.holds(grid) for disc in discs]
    to_j, to_i = _best(positions_i, positions_j, seen[0], seen[1])
    true = planes[1].to_px(planes[0].to_mm(grid))
    rows, columns = planes[1].shape
    shown = ((true > -0.5) & (true < [columns - 0.5, rows - 0.5])).all(-1)
    shown &= seen[0] & discs[1].holds(true) & _tissue(image, (h, w))
    back = np.abs(np.stack(np.divmod(to_i[to_j], w)) - np.stack(np.divmod(np.arange(h * w), w)))
    found, pixel = grid[to_j], planes[1].spacing[0]
    every = np.linalg.norm(true[shown, None] - grid[None, seen[1]], axis=-1)
    middle = np.array([(columns - 1) / 2, (rows - 1) / 2])
    if np.isfinite(discs[1].radius_px):
        middle = discs[1].center_px
    return Matches(
        start_px=grid[shown],
        predicted_px=found[shown],
        true_px=true[shown],
        error_mm=np.linalg.norm(found - true, axis=-1)[shown] * pixel,
        chance_mm=float(every.mean() * pixel) if shown.any() else float("nan"),
        same_mm=np.linalg.norm(true - grid, axis=-1)[shown] * pixel,
        middle_mm=np.linalg.norm(true - middle, axis=-1)[shown] * pixel,
        returned=(back.max(0) <= 1)[shown],
    )


def _best(
    positions_i: Tensor,
    positions_j: Tensor,
    seen_i: npt.NDArray[np.bool_],
    seen_j: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Most similar position ``(h·w,)`` among those that the other slice shows, both ways."""
    unit_i, unit_j = (F.normalize(p.flatten(1).float(), dim=0) for p in (positions_i, positions_j))

    def best(queries: Tensor, among: Tensor, seen: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        hidden = torch.from_numpy(~seen).to(among.device)
        parts = queries.split(max(1, _AT_ONCE // len(seen)), dim=1)
        found = [(p.T @ among).masked_fill(hidden, -torch.inf).argmax(1) for p in parts]
        indices: npt.NDArray[np.int64] = torch.cat(found).cpu().numpy()
        return indices

    return best(unit_i, unit_j, seen_j), best(unit_j, unit_i, seen_i)


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
