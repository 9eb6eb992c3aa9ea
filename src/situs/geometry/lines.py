"""Lines in the plane of an image: clipping, distances, heat maps, comparison.

A line is its normal form ``(a, b, c)`` in pixels, a² + b² = 1, a·column + b·row + c = 0. Both
signs mean the same line. Pixels may be anisotropic: whatever is given in mm takes the ``spacing``
(between rows, between columns), as in DICOM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]
AnyArray = TypeVar("AnyArray", npt.NDArray[np.floating], Tensor)

# Maps worked on at once: their pixels stay in the second-level cache between the four passes.
_BLOCK_BYTES = 2**18


def clip_lines(lines: npt.ArrayLike, shape: npt.ArrayLike) -> tuple[Array, npt.NDArray[np.bool_]]:
    """The part of each line inside the image, whose area reaches half a pixel past the centres.

    Args:
        lines: ``(…, 3)``.
        shape: (rows, columns), or ``(…, 2)`` that broadcast with the lines.

    Returns:
        segments: ``(…, 2, 2)`` two end points as (column, row); NaN where there is none.
        inside: ``(…)`` whether the line crosses the image.
    """
    line = np.asarray(lines, dtype=np.float64)
    extent = np.asarray(shape, dtype=np.float64)[..., ::-1]
    extent = np.broadcast_to(extent, (*line.shape[:-1], 2))
    center = (extent - 1) / 2
    normal, along = line[..., :2], np.stack([-line[..., 1], line[..., 0]], axis=-1)
    foot = center - ((normal * center).sum(-1) + line[..., 2])[..., None] * normal
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = np.stack([-0.5 - foot, extent - 0.5 - foot]) / along
        low, high = bounds.min(0), bounds.max(0)
    # A line along an axis is bounded by the other one only, or misses the image.
    still, between = along == 0, (foot >= -0.5) & (foot <= extent - 0.5)
    low = np.where(still, np.where(between, -np.inf, np.inf), low).max(-1)
    high = np.where(still, np.where(between, np.inf, -np.inf), high).min(-1)
    inside = low < high  # False for NaN
    reach = np.where(inside[..., None], np.stack([low, high], axis=-1), np.nan)
    return foot[..., None, :] + reach[..., None] * along[..., None, :], inside


def mm_per_unit(lines: AnyArray, spacing: Sequence[float] | AnyArray) -> AnyArray:
    """Factor ``(…)`` that turns a·column + b·row + c into a signed distance in mm.

    A line's value grows by 1 over 1 px along its pixel normal, which with anisotropic pixels is
    not the direction of the shortest way in mm: that way is 1/√((a/dx)² + (b/dy)²) long.
    """
    a, b = lines[..., 0], lines[..., 1]
    dy, dx = (spacing[0], spacing[1]) if isinstance(spacing, Sequence) else _last(spacing)
    return ((a / dx) ** 2 + (b / dy) ** 2) ** -0.5


def line_distance_mm(
    lines: npt.ArrayLike, points_px: npt.ArrayLike, spacing: Sequence[float]
) -> Array:
    """Signed distance in mm of points ``(…, 2)`` (column, row) from lines ``(…, 3)``."""
    line = np.asarray(lines, dtype=np.float64)
    points = np.asarray(points_px, dtype=np.float64)
    value = (line[..., :2] * points).sum(-1) + line[..., 2]
    return np.asarray(value * mm_per_unit(line, spacing))


def line_heatmap(
    lines: AnyArray,
    shape: tuple[int, int],
    spacing: Sequence[float] | AnyArray,
    sigma_mm: float,
) -> AnyArray:
    """Heat maps exp(−d² / 2σ²), d the distance in mm of each pixel's centre to the line.

    Follows the regression target of arXiv 2403.16499. d is affine in column and row, so a map
    costs an outer sum and one exponential a pixel; NumPy input is worked on in float32 and in
    blocks that stay in cache.

    Args:
        lines: ``(…, 3)`` normal form in pixels; where NaN (no line) the map is zero.
        shape: (rows, columns).
        spacing: Millimetres (between rows, between columns), or ``(…, 2)`` for each line.
        sigma_mm: Standard deviation of the profile across the line.

    Returns:
        ``(…, rows, columns)``; float32 for NumPy input, the input's dtype and device for torch.
    """
    if isinstance(lines, Tensor):
        return _heatmap_torch(lines, shape, spacing, sigma_mm)
    line = np.asarray(lines, dtype=np.float64)
    flat = (line * (mm_per_unit(line, spacing) / (2**0.5 * sigma_mm))[..., None]).reshape(-1, 3)
    absent = ~np.isfinite(flat).all(-1)
    rows, columns = shape
    across = (flat[:, :1] * np.arange(columns) + flat[:, 2:]).astype(np.float32)
    down = (flat[:, 1:2] * np.arange(rows)).astype(np.float32)
    across[absent], down[absent] = np.inf, 0
    maps = np.empty((len(flat), rows, columns), dtype=np.float32)
    block = max(1, _BLOCK_BYTES // (4 * rows * columns))
    for start in range(0, len(flat), block):
        part = maps[start : start + block]
        np.add(
            across[start : start + block, None, :], down[start : start + block, :, None], out=part
        )
        np.multiply(part, part, out=part)
        np.negative(part, out=part)
        np.exp(part, out=part)
    return maps.reshape(*line.shape[:-1], rows, columns)


def _heatmap_torch(
    lines: Tensor, shape: tuple[int, int], spacing: Sequence[float] | Tensor, sigma_mm: float
) -> Tensor:
    scaled = lines * (mm_per_unit(lines, spacing) / (2**0.5 * sigma_mm))[..., None]
    columns = torch.arange(shape[1], device=lines.device, dtype=lines.dtype)
    rows = torch.arange(shape[0], device=lines.device, dtype=lines.dtype)
    across = scaled[..., :1] * columns + scaled[..., 2:]
    down = scaled[..., 1:2] * rows
    maps = torch.exp(-((across[..., None, :] + down[..., :, None]) ** 2))
    absent = ~torch.isfinite(lines).all(-1)
    return maps.masked_fill(absent[..., None, None], 0.0)


def transform_lines(lines: npt.ArrayLike, matrix: npt.ArrayLike) -> Array:
    """Lines after their image was moved.

    Args:
        lines: ``(…, 3)`` in the old image's pixels.
        matrix: ``(…, 3, 3)`` homogeneous map of old (column, row, 1) to new.

    Returns:
        ``(…, 3)`` in the new image's pixels, normalised.
    """
    moved = np.einsum(
        "...i,...ij->...j", np.asarray(lines, np.float64), np.linalg.inv(np.asarray(matrix))
    )
    return np.asarray(moved / np.linalg.norm(moved[..., :2], axis=-1, keepdims=True))


def line_angle_deg(first: npt.ArrayLike, second: npt.ArrayLike, spacing: Sequence[float]) -> Array:
    """Angle ``(…)`` between lines ``(…, 3)`` as they lie in the patient, 0 to 90 degrees."""
    p, q = (
        np.asarray(line, np.float64)[..., :2] / np.asarray(spacing, np.float64)[..., ::-1]
        for line in (first, second)
    )
    cross = np.abs(p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0])
    return np.degrees(np.arctan2(cross, np.abs((p * q).sum(-1))))


def line_offset_mm(
    predicted: npt.ArrayLike, true: npt.ArrayLike, shape: tuple[int, int], spacing: Sequence[float]
) -> Array:
    """Mean distance ``(…)`` in mm from the true line's visible segment to the predicted line.

    The signed distance runs linearly from d₀ to d₁ along the segment, so its mean magnitude is
    |d₀ + d₁|/2 where both have one sign and (d₀² + d₁²) / 2(|d₀| + |d₁|) where the lines cross.
    NaN where the true line does not cross the image.
    """
    segments, _ = clip_lines(true, shape)
    ends = line_distance_mm(np.asarray(predicted)[..., None, :], segments, spacing)
    total = np.abs(ends).sum(-1)
    crossing = (ends**2).sum(-1) / np.maximum(2 * total, np.finfo(np.float64).tiny)
    return np.where(ends.prod(-1) >= 0, total / 2, crossing)


def _last(values: AnyArray) -> tuple[AnyArray, AnyArray]:
    return values[..., 0], values[..., 1]
