"""What a scan's voxel grid says of its slices, worked out once and kept: samplers ask every time.

Ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from situs.geometry import Plane, PlaneArray
from situs.geometry.stacks import stack_axis
from situs.views.decoded import Kept
from situs.views.inside import Room
from situs.views.source import Source

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScanGrid:
    """The voxel grid of a scan.

    Attributes:
        shape: Voxels along each axis.
        spacing: Millimetres along each axis.
        affine: ``(4, 4)``, voxel centres to RAS mm.
        background: ``(C,)``, what lies outside.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    affine: Array
    background: npt.NDArray[np.float32]
    _firsts: dict[int, Plane] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def to_vox(self) -> Array:
        """``(4, 4)``, RAS mm to voxels."""
        return np.asarray(np.linalg.inv(self.affine), dtype=np.float64)

    @cached_property
    def axes(self) -> tuple[int, ...]:
        """Axes that slices can be taken along: the stack's own, or any of an isotropic volume."""
        return _axes(self.shape, self.spacing)

    @cached_property
    def room(self) -> Room:
        """Its inside."""
        return Room.of(self.affine, self.shape)

    def slices(self, axes: Sequence[int], indices: Sequence[int]) -> PlaneArray:
        """Slices of the grid.

        Args:
            axes: Of each the axis that it is perpendicular to.
            indices: Of each its number along that axis.

        Raises:
            SitusError: Where the voxels are sheared.
        """
        first = PlaneArray.of([self.first_slice(axis) for axis in axes])
        way = np.asarray(indices)[:, None] * self.affine[:3, list(axes)].T
        return PlaneArray(
            first.origin_mm + way, first.row_mm, first.column_mm, first.shape, first.spacing
        )

    def first_slice(self, axis: int) -> Plane:
        """The first slice along an axis.

        Raises:
            SitusError: Where the voxels are sheared.
        """
        if axis not in self._firsts:
            self._firsts[axis] = Plane.from_affine(self.affine, axis, 0, self.shape)
        return self._firsts[axis]


_grids: Kept[ScanGrid] = Kept(4096, lambda _: 1)


def grid_of(source: Source) -> ScanGrid:
    """The grid of a scan; kept."""
    return _grids.of(source, _read)


def _read(source: Source) -> ScanGrid:
    background = np.asarray(source.background, dtype=np.float32)
    return ScanGrid(source.shape, source.spacing, source.affine, background)


def stack_axes(source: Source) -> tuple[int, ...]:
    """:attr:`ScanGrid.axes` of a scan that is looked at once."""
    return _axes(source.shape, source.spacing)


def _axes(shape: Sequence[int], spacing: Sequence[float]) -> tuple[int, ...]:
    axis = stack_axis(shape, spacing)
    return (0, 1, 2) if axis is None else (axis,)
