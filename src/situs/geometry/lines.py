"""Lines in the plane of an image: clipping, distances, heat maps, comparison.

A line is its normal form ``(a, b, c)`` in pixels, a² + b² = 1, a·column + b·row + c = 0. Both
signs mean the same line. Pixels may be anisotropic: whatever is given in mm takes the ``spacing``
(between rows, between columns), as in DICOM.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]
AnyArray = TypeVar("AnyArray", npt.NDArray[np.floating], Tensor)

# Bytes of maps worked on at once: they stay in the second-level cache between the passes.
_BLOCK_BYTES = 2**20
# 2^−u² is held at u = 11, 4e-37, which counts as zero: the exponential of numbers whose result
# is denormal takes ten times as long, and most pixels of a map are that far from the line.
_FAR = 11.0


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
    inside = (low < high) & np.isfinite(low) & np.isfinite(high)  # False for NaN and for no line
    reach = np.where(inside[..., None], np.stack([low, high], axis=-1), np.nan)
    return foot[..., None, :] + reach[..., None] * along[..., None, :], inside


def crosses_image(lines: npt.ArrayLike, shape: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Whether lines cross the image, as :func:`clip_lines` says, without their segments.

    A line does where its distance from the middle is less than the image reaches along its normal.

    Args:
        lines: ``(…, 3)``; where NaN the answer is no.
        shape: (rows, columns), or ``(…, 2)`` that broadcast with the lines.

    Returns:
        ``(…)``.
    """
    line = np.asarray(lines, dtype=np.float64)
    half = np.asarray(shape, dtype=np.float64)[..., ::-1] / 2
    normal = line[..., :2]
    distance = np.abs((normal * (half - 0.5)).sum(-1) + line[..., 2])
    reach = (np.abs(normal) * half).sum(-1)
    # A line along an axis may run along the border, others only touch a corner there.
    along = (normal == 0).sum(-1) == 1
    crosses: npt.NDArray[np.bool_] = (distance < reach) | (along & (distance == reach))
    return crosses


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
    out: AnyArray | None = None,
) -> AnyArray:
    """Heat maps exp(−d² / 2σ²), d the distance in mm of each pixel's centre to the line.

    The map is the regression target of arXiv 2403.16499; ours are distances in mm for any spacing
    of pixels, and the closed form: d is affine in column and row, so a map costs an outer sum and
    one exponential a pixel.

    Args:
        lines: ``(…, 3)`` normal form in pixels; where NaN or zero (no line) the map is zero.
        shape: (rows, columns).
        spacing: Millimetres (between rows, between columns), or ``(…, 2)`` for each line.
        sigma_mm: Standard deviation of the profile across the line.
        out: Where to write, ``(…, rows, columns)``, contiguous; not with lines that carry a
            gradient.

    Returns:
        ``(…, rows, columns)``; float32 for NumPy input, the input's dtype and device for torch,
        differentiable where the lines are.
    """
    if isinstance(lines, Tensor):
        across, down = _profile(lines, mm_per_unit(lines, spacing), shape, sigma_mm)
        if out is None and (lines.requires_grad or lines.device.type != "cpu"):
            u = across[..., None, :] + down[..., :, None]
            if torch.is_grad_enabled() and lines.requires_grad:
                return torch.exp2(-u.clamp(-_FAR, _FAR).square())
            return u.clamp_(-_FAR, _FAR).square_().neg_().exp2_()
        maps = across.new_empty((*lines.shape[:-1], *shape)) if out is None else out
        return _fill(maps, across, down)
    return _numpy_heatmap(lines, shape, np.asarray(spacing, np.float64), sigma_mm, out)


def _numpy_heatmap(
    lines: npt.ArrayLike, shape: tuple[int, int], spacing: Array, sigma_mm: float, out: Any
) -> Any:
    line = torch.from_numpy(np.asarray(lines, dtype=np.float64))
    across, down = _profile(line, mm_per_unit(line, torch.from_numpy(spacing)), shape, sigma_mm)
    # NumPy's large arrays come in huge pages; torch's cost more in page faults than the maps.
    maps = np.empty((*line.shape[:-1], *shape), dtype=np.float32) if out is None else out
    _fill(torch.from_numpy(maps), across.float(), down.float())
    return maps


def _profile(
    lines: Tensor, mm: Tensor, shape: tuple[int, int], sigma_mm: float
) -> tuple[Tensor, Tensor]:
    """``(…, columns)`` and ``(…, rows)`` whose outer sum is u, where exp(−d²/2σ²) = 2^−u²."""
    scaled = lines * (mm * (math.log2(math.e) / 2) ** 0.5 / sigma_mm)[..., None]
    absent = ~torch.isfinite(scaled).all(-1, keepdim=True)
    scaled = scaled.masked_fill(absent, 0.0)
    columns, rows = (
        torch.arange(n, device=lines.device, dtype=lines.dtype) for n in reversed(shape)
    )
    across = scaled[..., :1] * columns + scaled[..., 2:]
    return across.masked_fill(absent, _FAR), scaled[..., 1:2] * rows


def _fill(maps: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Write 2^−(across + down)² into ``maps`` block by block."""
    *_, rows, columns = maps.shape
    flat, across, down = maps.view(-1, rows, columns), across.view(-1, columns), down.view(-1, rows)
    block = max(1, _BLOCK_BYTES // (flat.element_size() * rows * columns))
    for i in range(0, len(flat), block):
        part = flat[i : i + block]
        torch.add(across[i : i + block, None, :], down[i : i + block, :, None], out=part)
        part.clamp_(-_FAR, _FAR).square_().neg_().exp2_()
    return maps


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
