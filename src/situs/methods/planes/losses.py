"""Losses of ``planes``: line heat maps and slice location.

Both terms, and the width of the heat maps, are the paper's (arXiv 2403.16499). Which lines and
places do not count is ours, and so is the geometry: closed form for any orientation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from situs.geometry import line_heatmap
from situs.methods.distributed import divisor
from situs.methods.slopes import known


def line(heatmaps: Tensor, lines: Tensor, visible: Tensor, sigma_px: float) -> Tensor:
    """Mean squared error between predicted and true heat maps of the visible lines.

    The target is exp(−d² / 2σ²), d the distance of a pixel to the line (arXiv 2403.16499);
    channels whose plane is missing, parallel or outside do not count.

    Args:
        heatmaps: ``(N, R, rows, columns)`` predicted.
        lines: ``(N, R, 3)`` normal form in pixels.
        visible: ``(N, R)`` boolean.
        sigma_px: σ in pixels.

    Returns:
        Scalar; 0 where nothing is visible.
    """
    with torch.autocast(heatmaps.device.type, enabled=False):
        return known(*_heat_error(heatmaps, lines, visible, sigma_px))


@torch.no_grad()
def _heat_error(
    heatmaps: Tensor, lines: Tensor, visible: Tensor, sigma_px: float
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Value and gradient of :func:`line` in three passes over maps besides the target's."""
    shape = (heatmaps.shape[-2], heatmaps.shape[-1])
    wide = torch.promote_types(heatmaps.dtype, torch.float32)
    off = line_heatmap(lines.to(wide), shape, (1.0, 1.0), sigma_px).sub_(heatmaps)
    each = visible / (divisor(visible.sum()) * (shape[0] * shape[1])).to(wide)
    squares = torch.linalg.vector_norm(off, dim=(-2, -1)).square_()
    slope = torch.mul(off, each.mul(-2)[..., None, None])
    # A share of all pixels is nothing in fp16; there it is narrowed once the loss is scaled.
    if heatmaps.dtype != torch.float16:
        slope = slope.to(heatmaps.dtype)
    return (squares * each).sum(), [(heatmaps, slope)]


def location(predicted: Tensor, true: Tensor, located: Tensor) -> Tensor:
    """Mean squared error of a slice's relative place in its stack (arXiv 2403.16499).

    Args:
        predicted: ``(N,)``.
        true: ``(N,)`` in [0, 1].
        located: ``(N,)`` boolean; single slices have no place.

    Returns:
        Scalar; 0 where no slice has a place.
    """
    error = (predicted.float() - true.float()).square()
    return _mean(error, located)


def _mean(error: Tensor, counts: Tensor) -> Tensor:
    """Over what counts in all processes; 0 where nothing does."""
    return (error * counts).sum() / divisor(counts.sum())
