"""Pairs of near slices, drawn in mm along any stack direction.

Near slices are the paper's (arXiv 2406.15699), mirroring, full turns and deformations those of
arXiv 2106.09157. Distances in mm, any stack direction and discs inside the scan are ours.
"""

from __future__ import annotations

import math
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
from situs.views.framed import Framed
from situs.views.intensity import jitter_framed
from situs.views.planes import framed_discs
from situs.views.scan_grid import grid_of, stack_axes
from situs.views.slices import draw_pose, posed
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
    grid = grid_of(source)
    axes = config.axes or grid.axes
    axis = int(axes[rng.integers(len(axes))])
    count = grid.shape[axis]
    first = int(rng.integers(count))
    reach = max(1, int(config.max_distance_mm / grid.spacing[axis]))
    lowest, highest = max(0, first - reach), min(count - 1, first + reach)
    if count == 1:
        return SlicePair(axis, first, first)
    second = lowest + int(rng.integers(highest - lowest))
    return SlicePair(axis, first, second + (second >= first))


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
    half = np.subtract(base.shape[::-1], 1) * base.spacing[::-1] / 2
    room = np.maximum(half - radius_mm, 0).tolist()
    angle, length = 2 * math.pi * rng.random(), _APART * radius_mm * math.sqrt(rng.random())
    moves = [
        min(max(length * way, -2 * most), 2 * most)
        for way, most in zip((math.cos(angle), math.sin(angle)), room, strict=True)
    ]
    first = [
        rng.uniform(max(-most, -most - move), min(most, most - move))
        for move, most in zip(moves, room, strict=True)
    ]
    return np.array([first, np.add(first, moves)])


def position(source: Source, axis: int, index: int) -> float:
    """Share of the way from the first slice to the last; 0.5 for a single slice."""
    count = grid_of(source).shape[axis]
    return index / (count - 1) if count > 1 else 0.5


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
    grid, radius = grid_of(source), config.radius_mm
    pairs, places, poses = [], [], []
    for _ in range(config.pairs):
        pair = draw_pair(source, config, rng)
        pairs.append(pair)
        if radius:
            places.append(disc_places(grid.first_slice(pair.axis), radius, rng))
        else:
            places.append(np.tile(_random_part(source, pair.axis, config, rng), (2, 1)))
        poses += [draw_pose(config.pose, rng), draw_pose(config.pose, rng)]
    axes = [pair.axis for pair in pairs for _ in range(2)]
    indices = [index for pair in pairs for index in (pair.first, pair.second)]
    bases = grid.slices(axes, indices)
    place = np.concatenate(places)
    discs = bases.center_mm + place[:, :1] * bases.row_mm + place[:, 1:] * bases.column_mm
    views = posed(bases, discs, config.grid, poses)
    seen = framed_discs(source, views, discs, radius)
    if config.elastic_mm:
        pixels = config.elastic_mm / config.grid.spacing_mm
        seen = Framed.of(deformed(seen.whole(), pixels, rng))
    images = jitter_framed(seen, config.intensity, rng) if config.intensity else seen.whole()

    def paired(values: npt.ArrayLike, dtype: type = np.float64) -> torch.Tensor:
        array: npt.NDArray[Any] = np.asarray(values, dtype=dtype)
        return torch.from_numpy(array.reshape(config.pairs, 2, *array.shape[1:]))

    spacing = [grid.spacing[axis] for axis in axes]
    at = [position(source, axis, index) for axis, index in zip(axes, indices, strict=True)]
    return {
        "slices": paired(images, np.float32),
        "position": paired(at, np.float32),
        "slice_mm": paired(np.multiply(indices, spacing), np.float32),
        "axis": paired(axes, np.int64),
        "origin_mm": paired(views.origin_mm),
        "row_mm": paired(views.row_mm),
        "column_mm": paired(views.column_mm),
        "pixel_mm": paired(views.spacing[:, 0]),
        "disc_mm": paired(discs),
        "radius_mm": paired(np.full(len(views), radius or np.inf)),
        "across": torch.from_numpy(across(views[::2], views[1::2])),
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
    grid, scan = config.grid, grid_of(source)
    extents = [scan.shape[a] * scan.spacing[a] for a in range(3) if a != axis]
    room = np.maximum(0, np.array(extents) - np.array(grid.size) * grid.spacing_mm) / 2
    part: Array = rng.uniform(-1, 1, 2) * room
    return part[::-1]
