"""From slices to a volume's geometry: pure functions on positions and directions, in LPS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from situs.scans.quality import check_spacing
from situs.scans.readers.dicom_headers import Slice
from situs.scans.readers.options import chosen_volumes
from situs.scans.refusals import refuse

Array = npt.NDArray[np.float64]

# Headers carry positions rounded to as little as two decimals.
_SAME_PLACE_MM = 0.02
_PARALLEL_COSINE = 1 - 1e-4  # 0.8°: consoles write directions anew for each slice
_GAP_SHARE = 0.02
_TILT_MIN = np.tan(np.radians(0.1))
_TILT_MAX = np.tan(np.radians(40.0))


@dataclass(frozen=True)
class Stack:
    """Slices in order, and the grid they lie on.

    Attributes:
        volumes: The chosen volumes, each a list of slices along the normal.
        affine_lps: ``(4, 4)``, voxel (column, row, slice) to LPS mm. Its third column is the
            true step from slice to slice, so it is sheared where the gantry was tilted.
        tilt: In-plane shift a slice in pixels (along columns' index, along rows' index), zero
            unless the gantry was tilted.
        notes: What was handled.
    """

    volumes: list[list[Slice]]
    affine_lps: Array
    tilt: tuple[float, float]
    notes: tuple[str, ...]


def stack(
    slices: Sequence[Slice],
    path: Path,
    *,
    volume: int | Literal["all"] | None = None,
    fingerprint: Callable[[Slice], str],
) -> Stack:
    """Order slices by their position along the normal and derive the grid.

    Args:
        slices: Of one series, in any order.
        path: For errors.
        volume: Which volume, where positions repeat.
        fingerprint: Tells whether two slices hold the same pixels; asked only where slices
            share a position.

    Raises:
        ScanRefused: ``mixed-size``, ``mixed-orientation``, ``bad-orientation``,
            ``bad-spacing``, ``duplicate-slices``, ``four-dimensional``, ``missing-slice`` or
            ``irregular-spacing``.
    """
    notes: list[str] = []
    _check_same_grid(slices, path)
    row, column = _directions(slices, path)
    normal = np.cross(row, column)
    places = _places(slices, normal)
    places = _without_copies(places, fingerprint, notes)
    volumes = _volumes(places, path, volume)
    positions = np.array([s.position_mm for s in volumes[0]])
    step = _step(positions, normal, volumes[0][0], path)
    between_rows, between_columns = volumes[0][0].spacing
    affine = np.eye(4)
    affine[:3, 0] = row * between_columns
    affine[:3, 1] = column * between_rows
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    shift = np.array([step @ row / between_columns, step @ column / between_rows])
    slope = float(np.linalg.norm(step - (step @ normal) * normal) / (step @ normal))
    tilted = slope > _TILT_MIN
    if tilted:
        notes.append(f"gantry tilt of {np.degrees(np.arctan(slope)):.1f}° straightened")
    in_order = [s.instance for s in volumes[0]] == [s.instance for s in slices[: len(volumes[0])]]
    if not in_order:
        notes.append(f"sorted {len(volumes[0])} slices by position")
    tilt = (float(shift[0]), float(shift[1])) if tilted else (0.0, 0.0)
    return Stack(volumes, affine, tilt, tuple(notes))


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


def _directions(slices: Sequence[Slice], path: Path) -> tuple[Array, Array]:
    """Unit directions of the stack, made exactly perpendicular."""
    rows = np.array([s.row for s in slices])
    columns = np.array([s.column for s in slices])
    lengths = np.linalg.norm(np.concatenate([rows, columns]), axis=1)
    upright = np.abs((rows * columns).sum(axis=1))
    if not (np.abs(lengths - 1) < 1e-2).all() or not (upright < 1e-2).all():
        raise refuse("bad-orientation", path, "directions are not unit vectors at right angles")
    alike = np.minimum(rows @ rows[0], columns @ columns[0])
    if (alike < _PARALLEL_COSINE).any():
        groups = len(np.unique(np.round(np.concatenate([rows, columns], 1), 1), axis=0))
        raise refuse("mixed-orientation", path, f"slices in about {groups} orientations")
    row = rows[0] / np.linalg.norm(rows[0])
    column = columns[0] - (columns[0] @ row) * row
    return row, column / np.linalg.norm(column)


def _places(slices: Sequence[Slice], normal: Array) -> list[list[Slice]]:
    """Slices grouped by their distance along the normal, nearest first."""
    distances = np.array([s.position_mm for s in slices]) @ normal
    order = np.argsort(distances, kind="stable")
    new_place = np.diff(distances[order], prepend=-np.inf) > _SAME_PLACE_MM
    places: list[list[Slice]] = []
    for index, starts in zip(order, new_place, strict=True):
        if starts:
            places.append([])
        places[-1].append(slices[index])
    return places


def _without_copies(
    places: list[list[Slice]], fingerprint: Callable[[Slice], str], notes: list[str]
) -> list[list[Slice]]:
    """Drop slices that repeat another of the same place: the same instance or the same pixels."""
    instances = [list({s.instance: s for s in place}.values()) for place in places]
    kept = instances
    if any(len(place) > 1 for place in instances):
        pictures = [list({fingerprint(s): s for s in place[::-1]}.values()) for place in instances]
        # Equal pictures at some places of a complete series are moments when nothing moved.
        if _even(pictures) or not _even(instances):
            kept = pictures
    dropped = sum(len(p) for p in places) - sum(len(p) for p in kept)
    if dropped:
        notes.append(f"left out {dropped} copies of slices")
    return kept


def _even(places: list[list[Slice]]) -> bool:
    return len({len(place) for place in places}) == 1


def _volumes(
    places: list[list[Slice]], path: Path, volume: int | Literal["all"] | None
) -> list[list[Slice]]:
    counts = {len(place) for place in places}
    if len(counts) > 1:
        detail = f"positions hold {min(counts)} to {max(counts)} different slices"
        raise refuse("duplicate-slices", path, detail)
    for place in places:
        place.sort(key=lambda s: s.order)
    return [[p[v] for p in places] for v in chosen_volumes(counts.pop(), volume, path)]


def _step(positions: Array, normal: Array, first: Slice, path: Path) -> Array:
    """From one slice to the next in mm; the mean, once all are shown to be alike."""
    if len(positions) == 1:
        return normal * (first.thickness if first.thickness > 0 else 1.0)
    gaps = np.diff(positions @ normal)
    typical = float(np.median(gaps))
    tolerance = max(_SAME_PLACE_MM, _GAP_SHARE * typical)
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
    if off > max(0.1, 0.1 * typical):
        raise refuse("irregular-spacing", path, f"slices lie up to {off:.2f} mm off a line")
    if np.linalg.norm(step - (step @ normal) * normal) > _TILT_MAX * (step @ normal):
        raise refuse("irregular-spacing", path, "the stack leans by more than 40°")
    return step
