"""Pairs of near slices, drawn in mm along any stack direction."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from situs.geometry import Plane
from situs.methods.base import Batch
from situs.methods.sal.config import SalConfig
from situs.views.intensity import jitter
from situs.views.planes import cut
from situs.views.slices import Pose, draw_pose, posed, stack_axes
from situs.views.source import Source


class SlicePair(NamedTuple):
    """Two slices of one scan: the axis they are stacked along and their indices."""

    axis: int
    first: int
    second: int


def draw_pair(source: Source, config: SalConfig, rng: np.random.Generator) -> SlicePair:
    """Two different slices at most ``max_distance_mm`` apart, or neighbours where none are.

    A scan of a single slice gives that slice twice.
    """
    axes = config.axes or stack_axes(source)
    axis = int(axes[rng.integers(len(axes))])
    count = source.shape[axis]
    first = int(rng.integers(count))
    reach = max(1, int(config.max_distance_mm / source.spacing[axis]))
    near = np.arange(max(0, first - reach), min(count, first + reach + 1))
    near = near[near != first] if count > 1 else near
    return SlicePair(axis, first, int(rng.choice(near)))


def slice_plane(source: Source, axis: int, index: int, config: SalConfig, pose: Pose) -> Plane:
    """The view of one slice, about the slice's middle."""
    base = Plane.from_affine(source.affine, axis, index, source.shape)
    return posed(base, base.center_mm, config.grid, pose)


def position(source: Source, axis: int, index: int) -> float:
    """Share of the way from the first slice to the last; 0.5 for a single slice."""
    return index / (source.shape[axis] - 1) if source.shape[axis] > 1 else 0.5


def sample_pairs(source: Source, config: SalConfig, rng: np.random.Generator) -> Batch:
    """P pairs of one scan.

    Where the scan is larger than the view, each pair looks at a random part of the slice; the
    two slices of a pair are posed and changed in intensity independently.

    Returns:
        ``slices (P, 2, C, rows, columns)``, ``position (P, 2)`` along the scan,
        ``slice_mm (P, 2)`` along the stack, ``axis (P, 2)`` its direction, and the geometry of
        each view in RAS mm: ``origin_mm``, ``row_mm``, ``column_mm`` ``(P, 2, 3)`` and
        ``pixel_mm (P, 2)``.
    """
    planes: list[Plane] = []
    positions, axes, depths = [], [], []
    for _ in range(config.pairs):
        pair = draw_pair(source, config, rng)
        part = _random_part(source, pair.axis, config, rng)
        for index in (pair.first, pair.second):
            pose = draw_pose(config.pose, rng)
            pose = Pose(
                pose.angle_rad, pose.zoom, (pose.shift[0] + part[0], pose.shift[1] + part[1])
            )
            planes.append(slice_plane(source, pair.axis, index, config, pose))
            positions.append(position(source, pair.axis, index))
            axes.append(pair.axis)
            depths.append(index * source.spacing[pair.axis])
    images = cut(source, planes)
    if config.intensity is not None:
        images = np.stack([jitter(image, config.intensity, rng) for image in images])

    def stacked(values: npt.ArrayLike, dtype: type = np.float32) -> torch.Tensor:
        array: npt.NDArray[Any] = np.asarray(values, dtype=dtype)
        return torch.from_numpy(array.reshape(config.pairs, 2, *array.shape[1:]))

    return {
        "slices": stacked(images),
        "position": stacked(positions),
        "slice_mm": stacked(depths),
        "axis": stacked(axes, np.int64),
        "origin_mm": stacked([p.origin_mm for p in planes], np.float64),
        "row_mm": stacked([p.row_mm for p in planes], np.float64),
        "column_mm": stacked([p.column_mm for p in planes], np.float64),
        "pixel_mm": stacked([p.spacing[0] for p in planes], np.float64),
    }


def _random_part(
    source: Source, axis: int, config: SalConfig, rng: np.random.Generator
) -> tuple[float, float]:
    """Shift from the slice's middle, in views, that stays inside a slice larger than the view."""
    grid = config.grid
    extents = [source.shape[a] * source.spacing[a] for a in range(3) if a != axis]
    views = [n * grid.spacing_mm for n in grid.size]
    down, right = (
        float(rng.uniform(-1, 1) * max(0.0, extent / view - 1) / 2)
        for extent, view in zip(extents, views, strict=True)
    )
    return down, right
