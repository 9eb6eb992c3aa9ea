"""From the slices of one volume to its grid: pure functions on positions and directions, in LPS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from situs.scans.quality import check_spacing
from situs.scans.readers.dicom_headers import Slice
from situs.scans.readers.dicom_volumes import step_tolerance
from situs.scans.refusals import refuse

Array = npt.NDArray[np.float64]

_PARALLEL_COSINE = 1 - 1e-4  # 0.8°: consoles write directions anew for each slice
_TILT_MIN = np.tan(np.radians(0.1))
_TILT_MAX = np.tan(np.radians(40.0))
# Directions of two digits are 1 % longer or shorter than one, and as far from a right angle.
_UNIT_TOLERANCE = 0.02
_OFF_LINE_MM = 0.1
_OFF_LINE_SHARE = 0.1


@dataclass(frozen=True)
class Stack:
    """The slices of a volume in order, and the grid they lie on.

    Attributes:
        slices: Along the normal.
        affine_lps: ``(4, 4)``, voxel (column, row, slice) to LPS mm. Its third column is the
            true step from slice to slice, so it is sheared where the gantry was tilted.
        tilt: In-plane shift a slice in pixels (along columns' index, along rows' index), zero
            unless the gantry was tilted.
        notes: What was handled.
    """

    slices: list[Slice]
    affine_lps: Array
    tilt: tuple[float, float]
    notes: tuple[str, ...]


def directions(slices: Sequence[Slice], path: Path) -> tuple[Array, Array]:
    """Unit directions along rows and columns of parallel slices, exactly perpendicular.

    Raises:
        ScanRefused: ``mixed-size``, ``mixed-orientation``, ``bad-orientation`` or
            ``bad-spacing``.
    """
    _check_same_grid(slices, path)
    both = sorted({(*s.row, *s.column) for s in slices})
    rows, columns = np.array(both)[:, :3], np.array(both)[:, 3:]
    lengths = np.linalg.norm(np.concatenate([rows, columns]), axis=1)
    upright = np.abs((rows * columns).sum(axis=1))
    if not (np.abs(lengths - 1) < _UNIT_TOLERANCE).all() or not (upright < _UNIT_TOLERANCE).all():
        raise refuse("bad-orientation", path, "directions are not unit vectors at right angles")
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    columns /= np.linalg.norm(columns, axis=1, keepdims=True)
    alike = np.minimum(rows @ rows[0], columns @ columns[0])
    if (alike < _PARALLEL_COSINE).any():
        groups = len(np.unique(np.round(np.concatenate([rows, columns], 1), 1), axis=0))
        raise refuse("mixed-orientation", path, f"slices in about {groups} orientations")
    row = rows[0]
    column = columns[0] - (columns[0] @ row) * row
    return row, column / np.linalg.norm(column)


def stack(slices: Sequence[Slice], row: Array, column: Array, path: Path) -> Stack:
    """The grid of the slices of one volume.

    Args:
        slices: One at each place, ordered along the normal.
        row: Unit direction of the series, from :func:`directions`.
        column: The other.
        path: For errors.

    Raises:
        ScanRefused: ``missing-slice`` or ``irregular-spacing``.
    """
    notes: list[str] = []
    normal = np.cross(row, column)
    positions = np.array([s.position_mm for s in slices])
    step = _step(positions, normal, slices[0], path)
    row, column, normal = _without_rounding(row, column, normal, step, _rounding(slices[0]))
    between_rows, between_columns = slices[0].spacing
    shift = np.array([step @ row / between_columns, step @ column / between_rows])
    if np.abs(shift).max() * (len(slices) - 1) <= _OFF_LINE_SHARE:
        # Less than a tenth of a pixel from first to last: positions were rounded.
        step, shift = (step @ normal) * normal, np.zeros(2)
    affine = np.eye(4)
    affine[:3, 0] = row * between_columns
    affine[:3, 1] = column * between_rows
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    slope = float(np.linalg.norm(step - (step @ normal) * normal) / (step @ normal))
    tilted = slope > _TILT_MIN
    if tilted:
        notes.append(f"gantry tilt of {np.degrees(np.arctan(slope)):.1f}° straightened")
    tilt = (float(shift[0]), float(shift[1])) if tilted else (0.0, 0.0)
    return Stack(list(slices), affine, tilt, tuple(notes))


def same_grid(a: Stack, b: Stack) -> bool:
    """Whether two volumes of a series put their voxels at the same places."""
    if len(a.slices) != len(b.slices):
        return False
    side = min(np.linalg.norm(a.affine_lps[:3, :3], axis=0))
    last = np.array([n - 1 for n in (*a.slices[0].shape[::-1], len(a.slices))] + [1])
    moved = np.abs(a.affine_lps - b.affine_lps)[:3] @ last
    return bool(np.linalg.norm(moved) < _OFF_LINE_SHARE * side)


def straightened_affine(stacked: Stack, pad: tuple[int, int]) -> Array:
    """The affine of a tilted stack after its slices were moved onto a grid with right angles.

    Args:
        stacked: With its sheared affine.
        pad: Pixels added before the first along the column and the row index.
    """
    affine = stacked.affine_lps.copy()
    axes = affine[:3, :3]
    affine[:3, 2] -= axes[:, 0] * stacked.tilt[0] + axes[:, 1] * stacked.tilt[1]
    affine[:3, 3] -= axes[:, 0] * pad[0] + axes[:, 1] * pad[1]
    return affine


def _check_same_grid(slices: Sequence[Slice], path: Path) -> None:
    shapes = {s.shape for s in slices}
    if len(shapes) > 1:
        shown = ", ".join(f"{r}×{c}" for r, c in sorted(shapes)[:4])
        raise refuse("mixed-size", path, f"slices of {shown} pixels in one series")
    spacings = np.array([s.spacing for s in slices])
    check_spacing(spacings.min(axis=0).tolist(), path)
    if not np.allclose(spacings, spacings[0], rtol=1e-3):
        raise refuse("mixed-size", path, "slices of different pixel spacing in one series")


def _rounding(slice_: Slice) -> float:
    """Largest angle, in radians, that the digits of the directions leave open; 0 for many.

    Directions along the axes of the body show no digits and count as exact.
    """
    values = np.array([*slice_.row, *slice_.column])
    for digits in (2, 3, 4):
        unit = 10.0**-digits
        if (np.abs(values / unit - np.round(values / unit)) < 1e-6).all():
            exact = (np.abs(values - np.round(values)) < 1e-9).all()
            return 0.0 if exact else float(np.sqrt(3) * unit)
    return 0.0


def _without_rounding(
    row: Array, column: Array, normal: Array, step: Array, rounding: float
) -> tuple[Array, Array, Array]:
    """Directions turned so that the stack stands upright, if their digits leave that open."""
    along = step / np.linalg.norm(step)
    if float(np.linalg.norm(np.cross(along, normal))) > rounding:
        return row, column, normal
    row = row - (row @ along) * along
    row /= np.linalg.norm(row)
    return row, np.cross(along, row), along


def _step(positions: Array, normal: Array, first: Slice, path: Path) -> Array:
    """From one slice to the next in mm; the mean, once all are shown to be alike."""
    if len(positions) == 1:
        return normal * (first.thickness if first.thickness > 0 else 1.0)
    gaps = np.diff(positions @ normal)
    typical = float(np.median(gaps))
    tolerance = step_tolerance(typical)
    smallest = float(gaps.min())
    if (np.abs(gaps - typical) > tolerance).any():
        multiple = gaps / smallest
        if (np.abs(multiple - np.round(multiple)) * smallest < tolerance).all():
            holes = np.flatnonzero(np.round(multiple) > 1)
            missing = int(np.round(multiple[holes] - 1).sum())
            if missing <= len(positions) // 2:
                detail = f"{missing} missing after slice {int(holes[0]) + 1} of {len(positions)}"
                raise refuse("missing-slice", path, detail)
        detail = f"gaps from {gaps.min():.3g} to {gaps.max():.3g} mm"
        raise refuse("irregular-spacing", path, detail)
    step: Array = (positions[-1] - positions[0]) / (len(positions) - 1)
    line = positions[0] + np.arange(len(positions))[:, None] * step
    off = float(np.linalg.norm(positions - line, axis=1).max())
    # A tenth of a millimetre, but of a micro-CT no more than a share of its voxels.
    side = min(*first.spacing, typical)
    if off > max(_OFF_LINE_SHARE * typical, min(_OFF_LINE_MM, _OFF_LINE_SHARE * 5 * side)):
        raise refuse("irregular-spacing", path, f"slices lie up to {off:.2g} mm off a line")
    if np.linalg.norm(step - (step @ normal) * normal) > _TILT_MAX * (step @ normal):
        raise refuse("irregular-spacing", path, "the stack leans by more than 40°")
    return step
