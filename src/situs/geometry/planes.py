"""Image planes in space, and where they intersect.

The closed form is ours; coordinates and units are DICOM's (PS3.3, C.7.6.2).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from situs.errors import SitusError
from situs.geometry.frames import turn_lps_ras
from situs.geometry.lines import crosses_image

if TYPE_CHECKING:
    from pydicom import Dataset

Array = npt.NDArray[np.float64]
Vector = tuple[float, float, float]

# Headers round direction cosines; what is left of them is made exactly perpendicular.
_PERPENDICULAR = 1e-2
# Below this sine the direction of the line is rounding noise.
_PARALLEL = 1e-9


@dataclass(frozen=True, eq=False)
class Plane:
    """One 2D image in space; RAS mm.

    Pixel (column, row) has its centre at ``origin_mm + column · spacing[1] · row_mm
    + row · spacing[0] · column_mm``.

    Attributes:
        origin_mm: ``(3,)`` centre of pixel (0, 0).
        row_mm: ``(3,)`` unit direction along a row (increasing column index), DICOM's first
            orientation triplet.
        column_mm: ``(3,)`` unit direction along a column (increasing row index).
        shape: (rows, columns).
        spacing: Millimetres (between rows, between columns), as in DICOM.

    Raises:
        SitusError: When the directions are not finite, not perpendicular or zero, or shape or
            spacing is not positive.
    """

    origin_mm: Array
    row_mm: Array
    column_mm: Array
    shape: tuple[int, int]
    spacing: tuple[float, float]

    def __post_init__(self) -> None:
        # Samplers make dozens of planes for each sample: plain floats are faster than small arrays.
        origin = np.array(self.origin_mm, dtype=np.float64).reshape(3)
        row, column = _floats(self.row_mm), _floats(self.column_mm)
        rows, columns = (int(n) for n in self.shape)
        between_rows, between_columns = (float(s) for s in self.spacing)
        lengths = math.hypot(*row), math.hypot(*column)
        finite = all(map(math.isfinite, (*origin.tolist(), *lengths)))
        if not (finite and min(lengths) > 0):
            raise SitusError(f"a plane's directions must be finite, got {row} and {column}")
        row, column = _scaled(row, 1 / lengths[0]), _scaled(column, 1 / lengths[1])
        along = _dot(row, column)
        if abs(along) > _PERPENDICULAR:
            raise SitusError(
                f"a plane's row and column directions must be perpendicular, got {row} and "
                f"{column}; the header or affine has a shear, so resample the scan first"
            )
        x, y, z = (c - along * r for c, r in zip(column, row, strict=True))
        column = _scaled((x, y, z), 1 / math.hypot(x, y, z))
        if min(rows, columns) < 1 or not min(between_rows, between_columns) > 0:
            raise SitusError(
                f"a plane needs a positive shape and spacing, got {self.shape}, {self.spacing}"
            )
        for name, value in (
            ("origin_mm", origin),
            ("row_mm", np.array(row)),
            ("column_mm", np.array(column)),
            ("shape", (rows, columns)),
            ("spacing", (between_rows, between_columns)),
        ):
            object.__setattr__(self, name, value)

    @property
    def normal_mm(self) -> Array:
        """``(3,)`` unit normal, row × column."""
        (a, b, c), (x, y, z) = self.row_mm.tolist(), self.column_mm.tolist()
        return np.array([b * z - c * y, c * x - a * z, a * y - b * x])

    @property
    def center_mm(self) -> Array:
        """``(3,)`` centre of the image."""
        rows, columns = self.shape
        across, down = self._steps()
        center: Array = self.origin_mm + (columns - 1) / 2 * across + (rows - 1) / 2 * down
        return center

    def to_mm(self, points_px: npt.ArrayLike) -> Array:
        """Pixels ``(…, 2)`` as (column, row) → ``(…, 3)`` RAS mm."""
        return self.origin_mm + np.asarray(points_px, dtype=np.float64) @ self._steps()

    def to_px(self, points_mm: npt.ArrayLike) -> Array:
        """Points ``(…, 3)`` in RAS mm, projected along the normal → ``(…, 2)`` (column, row)."""
        offset = np.asarray(points_mm, dtype=np.float64) - self.origin_mm
        return offset @ (self._steps() / np.square([self.spacing[::-1]]).T).T

    def distance_mm(self, points_mm: npt.ArrayLike) -> Array:
        """Signed distance of ``(…, 3)`` points from the plane, along its normal."""
        return (np.asarray(points_mm, dtype=np.float64) - self.origin_mm) @ self.normal_mm

    def _steps(self) -> Array:
        """``(2, 3)``: mm moved by one column, by one row."""
        steps = np.array([self.row_mm, self.column_mm])
        steps[0] *= self.spacing[1]
        steps[1] *= self.spacing[0]
        return steps

    @classmethod
    def from_dicom(cls, dataset: Dataset, frame: int = 0) -> Plane:
        """The plane of a DICOM image, or of one frame of an enhanced multi-frame image.

        Args:
            dataset: With Image Position and Orientation (Patient), Pixel Spacing, Rows, Columns.
            frame: Which frame of a multi-frame image.

        Raises:
            SitusError: Where one of these is missing; names it.
        """
        position = _attribute(dataset, "PlanePositionSequence", "ImagePositionPatient", frame)
        orientation = _attribute(
            dataset, "PlaneOrientationSequence", "ImageOrientationPatient", frame
        )
        spacing = _attribute(dataset, "PixelMeasuresSequence", "PixelSpacing", frame)
        return cls(
            origin_mm=turn_lps_ras(position),
            row_mm=turn_lps_ras(orientation[:3]),
            column_mm=turn_lps_ras(orientation[3:]),
            shape=(int(dataset.Rows), int(dataset.Columns)),
            spacing=(float(spacing[0]), float(spacing[1])),
        )

    @classmethod
    def from_affine(
        cls, affine: npt.ArrayLike, axis: int, index: float, shape: Sequence[int]
    ) -> Plane:
        """The plane of ``np.take(volume, index, axis)``.

        The two axes that remain keep their order: the first runs over rows, the second over
        columns.

        Args:
            affine: ``(4, 4)``, voxel centres to RAS mm.
            axis: Axis of the volume that the slice is taken along.
            index: Slice; fractions lie between slices.
            shape: Of the volume ``(X, Y, Z)``, or of the slice (rows, columns).
        """
        matrix = np.asarray(affine, dtype=np.float64)
        axis = range(3)[axis]
        first, second = (a for a in range(3) if a != axis)
        rows, columns = (shape[first], shape[second]) if len(shape) == 3 else shape
        steps = np.linalg.norm(matrix[:3, :3], axis=0)
        return cls(
            origin_mm=matrix[:3, 3] + index * matrix[:3, axis],
            row_mm=matrix[:3, second],
            column_mm=matrix[:3, first],
            shape=(rows, columns),
            spacing=(float(steps[first]), float(steps[second])),
        )


@dataclass(frozen=True, eq=False)
class PlaneArray(Sequence[Plane]):
    """Image planes as arrays: samplers make and move dozens at once.

    Attributes:
        origin_mm: ``(N, 3)`` centres of pixel (0, 0).
        row_mm: ``(N, 3)`` directions along rows; like those along columns they are taken as they
            are, so must be of unit length and perpendicular.
        column_mm: ``(N, 3)`` directions along columns.
        shape: ``(N, 2)`` rows and columns.
        spacing: ``(N, 2)`` millimetres between rows and between columns.
    """

    origin_mm: Array
    row_mm: Array
    column_mm: Array
    shape: npt.NDArray[np.int64]
    spacing: Array

    @classmethod
    def of(cls, planes: Sequence[Plane]) -> PlaneArray:
        """The planes as arrays, themselves where they are already."""
        if isinstance(planes, PlaneArray):
            return planes
        origin, row, column = (
            np.array([getattr(p, name) for p in planes], dtype=np.float64).reshape(-1, 3)
            for name in ("origin_mm", "row_mm", "column_mm")
        )
        shape = np.array([p.shape for p in planes], dtype=np.int64).reshape(-1, 2)
        spacing = np.array([p.spacing for p in planes], dtype=np.float64).reshape(-1, 2)
        return cls(origin, row, column, shape, spacing)

    def __len__(self) -> int:
        return len(self.origin_mm)

    @overload
    def __getitem__(self, index: int) -> Plane: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int]) -> PlaneArray: ...

    def __getitem__(self, index: Any) -> Plane | PlaneArray:
        """One plane, or some.

        Raises:
            IndexError: Where there is no such plane.
            TypeError: If ``index`` is no number, slice or list of numbers.
        """
        if isinstance(index, tuple):  # several axes to NumPy
            index = list(index)
        elif not isinstance(index, slice | list | range | np.ndarray):
            index = int(operator.index(index))
        origin, row, column = self.origin_mm[index], self.row_mm[index], self.column_mm[index]
        shape, spacing = self.shape[index], self.spacing[index]
        if shape.ndim > 1:
            return PlaneArray(origin, row, column, shape, spacing)
        (rows, columns), (between_rows, between_columns) = shape.tolist(), spacing.tolist()
        plane = object.__new__(Plane)  # as it is: nothing is left to check
        vars(plane).update(
            origin_mm=origin,
            row_mm=row,
            column_mm=column,
            shape=(rows, columns),
            spacing=(between_rows, between_columns),
        )
        return plane

    @property
    def normal_mm(self) -> Array:
        """``(N, 3)`` unit normals, row × column."""
        return cross(self.row_mm, self.column_mm)

    @property
    def center_mm(self) -> Array:
        """``(N, 3)`` centres of the images."""
        middle = (self.shape[:, None, ::-1] - 1) / 2  # columns, rows
        center: Array = self.origin_mm + (middle @ self.steps_mm)[:, 0]
        return center

    @property
    def axes(self) -> Array:
        """``(N, 2, 3)`` directions along rows and along columns."""
        axes = np.empty((len(self), 2, 3))
        axes[:, 0], axes[:, 1] = self.row_mm, self.column_mm
        return axes

    @property
    def steps_mm(self) -> Array:
        """``(N, 2, 3)``: mm moved by one column, by one row."""
        return self.axes * self.spacing[:, ::-1, None]


def intersect(
    sources: Sequence[Plane], targets: Sequence[Plane], min_angle_deg: float = 5.0
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Where every target plane intersects every source image, in closed form.

    A pixel of the source lies in the target plane where n · (origin_s + column · dx · row_mm
    + row · dy · column_mm − origin_t) = 0, n the target's normal: already a line in pixels. No
    orientation is special.

    Args:
        sources: S planes, images whose pixels the lines are given in.
        targets: T planes, taken as infinite.
        min_angle_deg: Pairs of planes that meet at a smaller angle are masked.

    Returns:
        lines: ``(S, T, 3)`` normal form (a, b, c), a² + b² = 1, a·column + b·row + c = 0 in
            pixels; a·column + b·row + c is positive on the side that the target's normal
            points to. NaN where the planes are parallel.
        mask: ``(S, T)`` whether the line crosses the source image (its pixels' whole area) and
            the planes meet at ``min_angle_deg`` or more.
    """
    if not sources or not targets:
        empty = (len(sources), len(targets))
        return np.zeros((*empty, 3)), np.zeros(empty, dtype=bool)
    views, others = PlaneArray.of(sources), PlaneArray.of(targets)
    normals = others.normal_mm
    # The sine of the angle between the planes is what is left of n inside the source plane.
    left = (views.axes @ normals.T).transpose(0, 2, 1)
    sine = np.sqrt(np.einsum("stk,stk->st", left, left))
    direction = left * views.spacing[:, None, ::-1]
    away = views.origin_mm[:, None] - others.origin_mm
    length = np.sqrt(np.einsum("stk,stk->st", direction, direction))
    # Below, the direction is rounding noise.
    length[sine <= _PARALLEL] = np.nan
    lines = np.empty((*length.shape, 3))
    lines[..., :2] = direction
    lines[..., 2] = np.einsum("stk,tk->st", away, normals)
    lines /= length[..., None]
    inside = crosses_image(lines, views.shape[:, None])
    return lines, inside & (sine >= np.sin(np.radians(min_angle_deg)))


def _floats(values: npt.ArrayLike) -> Vector:
    x, y, z = np.asarray(values, dtype=np.float64).reshape(3).tolist()
    return x, y, z


def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _scaled(a: Vector, by: float) -> Vector:
    return a[0] * by, a[1] * by, a[2] * by


def cross(first: Array, second: Array) -> Array:
    """``np.cross`` of vectors ``(N, 3)``, five times as fast on few."""
    (a, b, c), (x, y, z) = first.T, second.T
    return np.array([b * z - c * y, c * x - a * z, a * y - b * x]).T


def near_parallel(first: Plane, second: Plane, angle_deg: float) -> bool:
    """Whether two planes meet at less than ``angle_deg``."""
    sine = np.linalg.norm(np.cross(first.normal_mm, second.normal_mm))
    return bool(sine < np.sin(np.radians(angle_deg)))


def _attribute(dataset: Dataset, group: str, name: str, frame: int) -> Any:
    """``name`` from the image, or from its per-frame or shared functional groups."""
    value = dataset.get(name)
    if value is not None:
        return value
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for functional in (*per_frame[frame : frame + 1], *shared[:1]):
        for item in functional.get(group) or []:
            if item.get(name) is not None:
                return item.get(name)
    raise SitusError(
        f"the DICOM image has no {name}, so its plane is unknown; leave localizers, reports and "
        "secondary captures out"
    )
