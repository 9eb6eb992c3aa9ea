"""Two-dimensional views of scans: their size, and the pose that augmentation gives them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from situs.config import Config
from situs.geometry import Plane, PlaneArray
from situs.views.planes import centred_planes
from situs.views.scan_grid import stack_axes
from situs.views.source import Source

_MULTIPLE = 16  # what the usual four down-samplings ask for
_LARGEST = 224


class ViewGrid(NamedTuple):
    """Pixels of a view: ``size`` (rows, columns), ``spacing_mm`` along both."""

    size: tuple[int, int]
    spacing_mm: float

    def about(self, size_mm: float) -> ViewGrid:
        """Square views of a part this large, a quarter wider so that it can be moved in them."""
        pixels = -(-int(np.ceil(1.25 * size_mm / self.spacing_mm)) // _MULTIPLE) * _MULTIPLE
        side = min(_LARGEST, pixels)
        return ViewGrid((side, side), self.spacing_mm * max(1.0, pixels / side))


class PoseConfig(Config):
    """Ranges of the in-plane pose of a view.

    Attributes:
        rotation_deg: Largest rotation to either side.
        scale: Largest relative change of size.
        shift: Largest shift along rows and columns, as a share of the view.
        mirror: Probability that the columns run the other way. Geometry is mirrored with the image,
            but left and right of the body change places in it.
    """

    rotation_deg: float = Field(15.0, ge=0, le=180)
    scale: float = Field(0.1, ge=0, lt=0.9)
    shift: float = Field(0.1, ge=0, le=1)
    mirror: float = Field(0.0, ge=0, le=1)


@dataclass(frozen=True)
class Pose:
    """What was drawn: the view is turned, enlarged, moved and mirrored within its plane."""

    angle_rad: float = 0.0
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    mirrored: bool = False


def draw_pose(config: PoseConfig, rng: np.random.Generator) -> Pose:
    """A random in-plane pose."""
    drawn = rng.uniform(-1, 1, 4).tolist()
    return _pose(config, drawn, config.mirror > 0 and bool(rng.random() < config.mirror))


def draw_poses(config: PoseConfig, count: int, rng: np.random.Generator) -> list[Pose]:
    """What :func:`draw_pose` draws, one after the other, in one call where that is the same."""
    if config.mirror > 0:
        return [draw_pose(config, rng) for _ in range(count)]
    return [_pose(config, drawn) for drawn in rng.uniform(-1, 1, (count, 4)).tolist()]


def _pose(config: PoseConfig, drawn: Sequence[float], mirrored: bool = False) -> Pose:
    """The pose of four numbers between -1 and 1: angle, size, shift along rows and columns."""
    angle, zoom, down, right = drawn
    return Pose(
        angle_rad=math.radians(config.rotation_deg) * angle,
        zoom=(1 + config.scale) ** zoom,
        shift=(config.shift * down, config.shift * right),
        mirrored=mirrored,
    )


def posed(
    bases: Sequence[Plane], centers_mm: npt.ArrayLike, grid: ViewGrid, poses: Sequence[Pose]
) -> PlaneArray:
    """The planes of views within ``bases``: image and geometry move together by construction.

    Args:
        bases: N slices; their directions are the views' before the turn.
        centers_mm: ``(N, 3)`` middles of the views before the shift.
        grid: The views' pixels before the zoom.
        poses: What augmentation drew for each.
    """
    base = PlaneArray.of(bases)
    drawn = [(p.angle_rad, p.zoom, *p.shift, -1.0 if p.mirrored else 1.0) for p in poses]
    angle, zoom, down, right, sign = np.array(drawn).reshape(-1, 5, 1).transpose(1, 0, 2)
    cos, sin = np.cos(angle), np.sin(angle)
    row = sign * (cos * base.row_mm + sin * base.column_mm)
    column = cos * base.column_mm - sin * base.row_mm
    step = grid.spacing_mm * zoom
    moved = centers_mm + down * grid.size[0] * step * column + right * grid.size[1] * step * row
    return centred_planes(moved, row, column, grid.size, step)


def unposed(bases: Sequence[Plane], grid: ViewGrid) -> PlaneArray:
    """Views of slices as they are, each about its slice's middle."""
    base = PlaneArray.of(bases)
    return posed(base, base.center_mm, grid, [Pose()] * len(base))


def fitted_grid(sources: Sequence[Source]) -> ViewGrid:
    """Square views that suit most slices of the scans.

    The spacing is the median in-plane one and the size the median larger extent, up to a
    multiple of 16; where that exceeds 224 pixels the spacing grows instead.
    """
    spacings, extents = [], []
    for source in sources:
        for axis in stack_axes(source):
            inside = [a for a in range(3) if a != axis]
            spacings.append(max(source.spacing[a] for a in inside))
            extents.append(max(source.spacing[a] * source.shape[a] for a in inside))
    spacing, extent = float(np.median(spacings)), float(np.median(extents))
    pixels = min(_LARGEST, -(-int(np.ceil(extent / spacing)) // _MULTIPLE) * _MULTIPLE)
    return ViewGrid((pixels, pixels), max(spacing, extent / _LARGEST))
