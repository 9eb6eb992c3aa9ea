"""Pairs of near slices, drawn in mm along any stack direction.

Near slices are the paper's (arXiv 2406.15699), mirroring, full turns and deformations those of
arXiv 2106.09157. Distances in mm, any stack direction and discs inside the scan are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import zoom
from torch.nn import functional as F

from situs.geometry import Plane
from situs.methods.base import Batch
from situs.methods.sal.config import SalConfig
from situs.methods.sal.registration import across
from situs.views.intensity import jitter
from situs.views.planes import cut_discs
from situs.views.slices import Pose, draw_pose, posed, stack_axes
from situs.views.source import Source

Array = npt.NDArray[np.float64]

# Diameter of the disc as a share of a slice's least extent, and how far the two discs of a pair
# lie apart, in radii: places within a slice then leave room for a disc and its move.
_SHOWN = 0.55
_APART = 1.5

_CONTROL = 8  # points of a deformation along each side of a view


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


def fitted_disc(sources: Sequence[Source], config: SalConfig) -> float:
    """Diameter in mm of what slices show: as set, or a share of the slices' least extent."""
    if config.shown_mm is not None:
        return config.shown_mm
    extents = [
        min(source.shape[a] * source.spacing[a] for a in range(3) if a != axis)
        for source in sources
        for axis in config.axes or stack_axes(source)
    ]
    return round(_SHOWN * float(np.median(extents)), 3)


def disc_places(base: Plane, radius_mm: float, rng: np.random.Generator) -> Array:
    """Where the discs of a pair lie in their slices, ``(2, 2)`` mm along rows and columns.

    The second disc is moved against the first by up to 1.5 radii, uniformly. That is as far as
    makes the middle of the disc the best answer for someone who sees no anatomy, to within 1 %,
    while two discs share 40 % of what they show.

    Args:
        base: One of the slices; the other one lies straight across.
        radius_mm: Of the discs, which stay inside the slice where they fit in it.
        rng: Source of randomness.
    """
    rows, columns = base.shape
    extent = np.array([(columns - 1) * base.spacing[1], (rows - 1) * base.spacing[0]])
    room = np.maximum(extent / 2 - radius_mm, 0)
    angle, share = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform())
    move = _APART * radius_mm * share * np.array([np.cos(angle), np.sin(angle)])
    move = np.clip(move, -2 * room, 2 * room)
    first = rng.uniform(np.maximum(-room, -room - move), np.minimum(room, room - move))
    return np.stack([first, first + move])


def position(source: Source, axis: int, index: int) -> float:
    """Share of the way from the first slice to the last; 0.5 for a single slice."""
    return index / (source.shape[axis] - 1) if source.shape[axis] > 1 else 0.5


def sample_pairs(source: Source, config: SalConfig, rng: np.random.Generator) -> Batch:
    """P pairs of one scan.

    Each slice shows a disc of its own (``shown``), or all that the view holds; where the scan is
    larger than the view, each pair then looks at a random part of the slice. The two slices of a
    pair are posed and changed in intensity independently.

    Returns:
        ``slices (P, 2, C, rows, columns)``, ``position (P, 2)`` along the scan,
        ``slice_mm (P, 2)`` along the stack, ``axis (P, 2)`` its direction, and the geometry of
        each view in RAS mm: ``origin_mm``, ``row_mm``, ``column_mm`` ``(P, 2, 3)`` and
        ``pixel_mm (P, 2)``; and of the disc that it shows ``disc_mm (P, 2, 3)``, its middle,
        and ``radius_mm (P, 2)``, infinite where all is shown; and ``across (P, 2, 3)``, where
        the second view of a pair shows what the first one does.
    """
    planes: list[Plane] = []
    positions, axes, depths, discs = [], [], [], []
    radius = config.radius_mm
    for _ in range(config.pairs):
        pair = draw_pair(source, config, rng)
        bases = [
            Plane.from_affine(source.affine, pair.axis, index, source.shape)
            for index in (pair.first, pair.second)
        ]
        if radius:
            at = disc_places(bases[0], radius, rng)
        else:
            at = np.tile(_random_part(source, pair.axis, config, rng), (2, 1))
        for index, base, place in zip((pair.first, pair.second), bases, at, strict=True):
            pose = draw_pose(config.pose, rng)
            discs.append(base.center_mm + place @ np.stack([base.row_mm, base.column_mm]))
            planes.append(posed(base, discs[-1], config.grid, pose))
            positions.append(position(source, pair.axis, index))
            axes.append(pair.axis)
            depths.append(index * source.spacing[pair.axis])
    images = cut_discs(source, planes, discs, radius)
    if config.elastic_mm:
        images = deformed(images, config.elastic_mm / config.grid.spacing_mm, rng)
    if config.intensity is not None:
        jitter(images, config.intensity, rng)

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
        "disc_mm": stacked(discs, np.float64),
        "radius_mm": stacked([radius or np.inf] * len(planes), np.float64),
        "across": torch.from_numpy(
            np.stack([across(*pair) for pair in zip(planes[::2], planes[1::2], strict=True)])
        ),
    }


def deformed(
    images: npt.NDArray[np.float32], pixels: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Views ``(N, C, rows, columns)``, each deformed elastically; their borders go on outside.

    Control points of a cubic B-spline, eight along each side of the view, are moved by up to
    ``pixels`` along rows and columns; no pixel moves further.
    """
    count, _, *size = images.shape
    control = rng.uniform(-pixels, pixels, (count, 2, _CONTROL, _CONTROL))
    # Without the prefilter control points are approximated and nothing overshoots them.
    moves = zoom(control, (1, 1, *(n / _CONTROL for n in size)), order=3, prefilter=False)
    places = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij")) + moves
    share = 2 * places / (np.array(size)[:, None, None] - 1) - 1
    grid = torch.from_numpy(np.moveaxis(share[:, ::-1], 1, -1).astype(np.float32))
    sampled = F.grid_sample(
        torch.from_numpy(images), grid, padding_mode="border", align_corners=True
    )
    return sampled.numpy()


def _random_part(source: Source, axis: int, config: SalConfig, rng: np.random.Generator) -> Array:
    """Where a pair's views lie in slices that are larger, ``(2,)`` mm along rows and columns."""
    grid = config.grid
    extents = [source.shape[a] * source.spacing[a] for a in range(3) if a != axis]
    room = np.maximum(0, np.array(extents) - np.array(grid.size) * grid.spacing_mm) / 2
    part: Array = rng.uniform(-1, 1, 2) * room
    return part[::-1]
