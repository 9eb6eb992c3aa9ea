"""Places of pixels: every pixel of a slice says where it lies in the patient (ours).

``global`` of the paper places whole slices along the scan. Here every pixel of the decoder's map
predicts a place ``c(x)`` in the patient, up to a shift that all slices of a scan share. The vector
from a pixel x of slice i to the middle of what slice j of the same scan shows is then
``mean_y c_j(y) − c_i(x)``, and is held against the true one. So the decoder is trained everywhere,
and in the plane of the slice, not only across it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from situs.methods.base import Batch, Samples, Scores
from situs.methods.measured import Measured
from situs.methods.sal.matching import planes_of, slice_volume
from situs.observation import OverlayPanel, Section

_STRIDE = 4  # pixels that are averaged into one place before the loss
_SHOWN = 3


class Shown(NamedTuple):
    """Where the pixels of S slices of B scans lie, averaged over cells of ``_STRIDE`` pixels.

    Attributes:
        points_mm: ``(B, S, 3, h, w)`` RAS mm.
        inside: ``(B, S, 1, h, w)`` whether a cell lies in what its slice shows.
    """

    points_mm: Tensor
    inside: Tensor


def shown_points(batch: Batch, stride: int = _STRIDE) -> Shown:
    """Where the cells of a batch's slices lie, and which of them are shown."""
    rows, columns = batch["slices"].shape[-2:]
    flat = {k: batch[k].flatten(1, 2) for k in _GEOMETRY}
    pixel = flat["pixel_mm"][..., None, None, None]
    down = _centres(rows // stride, stride, pixel)[:, None] * pixel
    along = _centres(columns // stride, stride, pixel) * pixel
    points = (
        flat["origin_mm"][..., None, None]
        + down * flat["column_mm"][..., None, None]
        + along * flat["row_mm"][..., None, None]
    )
    radius = flat["radius_mm"][..., None, None, None]
    away = (points - flat["disc_mm"][..., None, None]).square().sum(2, keepdim=True)
    return Shown(points, away <= radius.square())


_GEOMETRY = ("origin_mm", "row_mm", "column_mm", "pixel_mm", "disc_mm", "radius_mm")


def _centres(count: int, stride: int, like: Tensor) -> Tensor:
    """Middles of cells, in pixels."""
    index = torch.arange(count, device=like.device, dtype=like.dtype)
    return (index + 0.5) * stride - 0.5


def residuals(places: Tensor, shown: Shown, unit_mm: float) -> tuple[Tensor, Tensor]:
    """By how much each cell's place is off, and each slice's: ``(B, S, 3, h, w)``, ``(B, S, 3)``.

    Both in units of ``unit_mm`` and up to a shift of the scan: only differences between
    slices of one scan mean anything.

    Args:
        places: ``(B·S, 3, rows, columns)`` of the head.
        shown: Where the cells truly lie.
        unit_mm: Length that places are in units of.
    """
    stride = places.shape[-1] // shown.points_mm.shape[-1]
    cells = F.avg_pool2d(places, stride).unflatten(0, shown.points_mm.shape[:2])
    # About the first slice's middle, since coordinates in the patient can be large numbers.
    origin = shown.points_mm[:, :1].mean((-1, -2), keepdim=True)
    off = cells - ((shown.points_mm - origin) / unit_mm).to(cells)
    weight = shown.inside.to(off)
    mean = (off * weight).sum((-1, -2)) / weight.sum((-1, -2)).clamp_min(1)
    return off, mean


def pixel(places: Tensor, batch: Batch, unit_mm: float) -> Tensor:
    """Mean length of what the vectors are off, from every pixel to the middles of other slices.

    For slices i ≠ j of one scan and the pixels x that i shows, ‖v̂(x, j) − v(x, j)‖ with
    v̂(x, j) = mean_y c_j(y) − c_i(x); as a mean over x, then over i and j.

    Args:
        places: ``(B·P·2, 3, rows, columns)``, c at every pixel.
        batch: What was sampled.
        unit_mm: Length that places are in units of.

    Returns:
        Scalar.
    """
    shown = shown_points(batch)
    off, mean = residuals(places, shown, unit_mm)
    apart = off[:, :, None] - mean[:, None, :, :, None, None]  # (B, i, j, 3, h, w)
    weight = shown.inside[:, :, None, 0].to(off)
    length = torch.linalg.vector_norm(apart, dim=3) * weight
    each = length.sum((-1, -2)) / weight.sum((-1, -2)).clamp_min(1)
    slices = each.shape[1]
    return (each.sum((1, 2)) - each.diagonal(dim1=1, dim2=2).sum(1)).mean() / (
        slices * (slices - 1)
    )


def measure_pixels(places: Tensor, batch: Batch, unit_mm: float) -> Measured:
    """Error of the vector from what one slice shows to what another shows, in mm.

    As a mean over the pixels of a slice, so that where a pixel lies in the disc, which the disc's
    rim tells, earns nothing: who sees no anatomy can say no better than that nothing has moved.
    """
    shown = shown_points(batch)
    _, mean = residuals(places, shown, unit_mm)
    error = (mean[:, :, None] - mean[:, None]).norm(dim=-1) * unit_mm
    middles = batch["disc_mm"].flatten(1, 2)
    true = middles[:, None] - middles[:, :, None]
    pairs = _pairs(error.shape[1]).to(error.device)
    steps = true[:, pairs[0], pairs[1]]
    guess = (steps - steps.roll(1, 0)).norm(dim=-1) if len(steps) > 1 else steps.norm(dim=-1)
    return Measured(
        "pixel_error",
        error[:, pairs[0], pairs[1]],
        "mm",
        "lower",
        "error of the vector between what two slices show",
        chance=float(guess.mean()),
        constant=float(steps.norm(dim=-1).mean()),
    )


def _pairs(slices: int) -> Tensor:
    """Ordered pairs of different slices, ``(2, S·(S−1))``."""
    return (~torch.eye(slices, dtype=torch.bool)).nonzero().T


def pixel_section(places: Tensor, samples: Samples, scores: Scores, unit_mm: float) -> Section:
    """The score, and by how much every pixel of a few slices is off."""
    batch = samples.batch
    shown = shown_points(batch, stride=1)
    off, mean = residuals(places, shown, unit_mm)
    panels = []
    for b, source in enumerate(samples.scans[:_SHOWN]):
        # From the pixels of the first slice to the middle of the last one.
        error = ((off[b, 0] - mean[b, -1][:, None, None]).norm(dim=0) * unit_mm).cpu()
        error = torch.where(shown.inside[b, 0, 0].cpu(), error, torch.nan)
        plane = planes_of(batch, b, 0)[0]
        volume = slice_volume(batch["slices"][b, 0, 0, 0].cpu().numpy(), plane, source.key)
        panels.append(
            OverlayPanel(
                title=f"Pixels of {source.key}: how far off each is (mm)",
                caption=(
                    f"Of the vector from each pixel to the middle of another slice's part, "
                    f"{float(error.nanmean()):.1f} mm in the mean."
                ),
                volume=volume,
                overlay=error.numpy()[..., None],
            )
        )
    return Section(
        title="Places of pixels",
        explanation=(
            "Every pixel says where it lies in the patient. From two slices of one scan, each of "
            "which shows a part of its own, follows the vector from one part to the other."
        ),
        scores=scores.of("pixel_error"),
        panels=tuple(panels),
    )
