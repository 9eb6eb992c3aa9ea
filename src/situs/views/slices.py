"""Two-dimensional views of scans: their size, and the pose that augmentation gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from situs.config import Config
from situs.geometry import Plane
from situs.geometry.stacks import stack_axis
from situs.views.planes import centred_plane
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
    angle, zoom, down, right = rng.uniform(-1, 1, 4)
    return Pose(
        angle_rad=float(np.radians(config.rotation_deg) * angle),
        zoom=float((1 + config.scale) ** zoom),
        shift=(float(config.shift * down), float(config.shift * right)),
        mirrored=config.mirror > 0 and bool(rng.random() < config.mirror),
    )


def posed(base: Plane, center_mm: npt.ArrayLike, grid: ViewGrid, pose: Pose) -> Plane:
    """The plane of a view within ``base``: image and geometry move together by construction.

    Args:
        base: The slice; its directions are the view's before the turn.
        center_mm: Middle of the view before the shift.
        grid: The view's pixels before the zoom.
        pose: What augmentation drew.
    """
    cos, sin = np.cos(pose.angle_rad), np.sin(pose.angle_rad)
    row = (-1 if pose.mirrored else 1) * (cos * base.row_mm + sin * base.column_mm)
    column = cos * base.column_mm - sin * base.row_mm
    size, step = grid.size, grid.spacing_mm * pose.zoom
    moved = (
        np.asarray(center_mm, dtype=np.float64)
        + pose.shift[0] * size[0] * step * column
        + pose.shift[1] * size[1] * step * row
    )
    return centred_plane(moved, row, column, size, (step, step))


def stack_axes(source: Source) -> tuple[int, ...]:
    """Axes that slices can be taken along: the stack's own, or any of an isotropic volume."""
    axis = stack_axis(source.shape, source.spacing)
    return (0, 1, 2) if axis is None else (axis,)


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
