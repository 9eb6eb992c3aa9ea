"""The second slice of a pair, seen from where the first one lies."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from situs.methods.base import Batch
from situs.methods.distributed import mean_count
from situs.methods.sal.losses import similarity_of_matches
from situs.tensors import constant


def registered(maps: Tensor, batch: Batch, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Features of the second slice straight across from the first one's positions.

    Args:
        maps: ``(N, D, h, w)`` features of the second slice of each pair.
        batch: Geometry of the views, ``(…, 2, 3)`` with N pairs in all; see
            :func:`~situs.methods.sal.views.sample_pairs`.
        shape: (rows, columns) of a view in pixels.

    Returns:
        maps: ``(N, D, h, w)``, sampled bilinearly; zero where the second view does not show the
            place.
        shown: ``(N, h, w)`` whether it does.
    """
    (rows, columns), (h, w) = shape, maps.shape[2:]
    origin, row, column = (
        batch[name].flatten(0, -3).to(maps.device) for name in ("origin_mm", "row_mm", "column_mm")
    )
    pixel = batch["pixel_mm"].flatten(0, -2).to(maps.device)
    down, right = (
        ((torch.arange(n, device=maps.device) + 0.5) * pixels / n - 0.5).to(origin)
        for n, pixels in ((h, rows), (w, columns))
    )
    steps = pixel[:, 0, None, None, None]
    place_mm = (
        origin[:, 0, None, None]
        + steps * right[None, None, :, None] * row[:, 0, None, None]
        + steps * down[None, :, None, None] * column[:, 0, None, None]
    ) - origin[:, 1, None, None]
    there = torch.stack(
        [
            (place_mm @ axis[:, 1, None, :, None])[..., 0] / pixel[:, 1, None, None]
            for axis in (row, column)
        ],
        dim=-1,
    )
    # −1 and 1 are the outer edges of the view.
    grid = (2 * there + 1) / constant((columns, rows), there) - 1
    shown = (grid.abs() < 1).all(-1)
    found = F.grid_sample(maps, grid.to(maps), padding_mode="border", align_corners=False)
    return found * shown[:, None], shown


def alignment_in_patient(
    x_i: Tensor, x_j: Tensor, batch: Batch, shape: tuple[int, int], window: int
) -> Tensor:
    """:func:`~situs.methods.sal.local_alignment` in windows that lie over one place of the patient.

    Views of near slices are turned, enlarged and shifted independently, so a window of the one
    shows another part of the patient than the same window of the other. Here the second map is
    brought under the first one; positions that only one of the views shows do not count. With
    windows the term says where a match must be, which the features then have to tell.

    Args:
        x_i: ``(N, D, h, w)`` features of one slice of each pair.
        x_j: ``(N, D, h, w)`` of the other.
        batch: Geometry of the views.
        shape: (rows, columns) of a view in pixels.
        window: Positions a side.

    Returns:
        Scalar, 0 (all matched) to 2; 0 where the views of no pair overlap.
    """
    # Double precision of the geometry must not widen features; autocast must not narrow it.
    with torch.autocast(x_i.device.type, enabled=False):
        under, shown = registered(x_j.float(), batch, shape)
        seen = shown.flatten(1)
        # A place that is not shown has zero features: similar to nothing, so never the best.
        pair = similarity_of_matches(x_i.float() * shown[:, None], under, window)
        count = mean_count(seen.sum())
        count = torch.where(count > 0, count, 1)
        errors = [((1 - s).abs() * seen).sum() / count for s in pair]
    return (errors[0] + errors[1]) / 2
