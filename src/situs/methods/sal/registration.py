"""The second slice of a pair, seen from where the first one lies.

Ours: the paper (arXiv 2406.15699) looks for a position's best match over the whole second slice.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from situs.geometry import PlaneArray
from situs.methods.base import Batch
from situs.methods.precision import at_least_single
from situs.methods.sal.losses import aligned
from situs.methods.slopes import unit

Array = npt.NDArray[np.float64]


def across(first: PlaneArray, second: PlaneArray) -> Array:
    """Where each second view shows what the first one does, ``(P, 2, 3)``; all of one shape.

    Takes ``(x, y, 1)`` in the first view to ``(x, y)`` in the second, straight across; −1 and 1
    are the outer edges of a view, along its columns and its rows.
    """
    rows, columns = first.shape[0].tolist()
    # Pixels of the first view by place, and places of the second view by pixel.
    corners = np.array(
        [[columns / 2, 0, (columns - 1) / 2], [0, rows / 2, (rows - 1) / 2], [0, 0, 1]]
    )
    # Steps of a pixel of the first view, and its origin, in pixels of the second.
    mm = np.concatenate([first.steps_mm, (first.origin_mm - second.origin_mm)[:, None]], axis=1)
    to_px = second.steps_mm / np.square(second.spacing[:, ::-1, None])
    moved = to_px @ mm.transpose(0, 2, 1) @ corners
    half = np.array([[columns], [rows]])
    places: Array = (2 * moved + [0, 0, 1]) / half - [0, 0, 1]
    return places


def registered(maps: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Features of the second slice straight across from the first one's positions.

    Args:
        maps: ``(N, D, h, w)`` features of the second slice of each pair.
        batch: Of views; see :func:`~situs.methods.sal.views.sample_pairs`.

    Returns:
        maps: ``(N, D, h, w)``, sampled bilinearly; zero where the second view does not show the
            place.
        shown: ``(N, h, w)`` whether it does.
    """
    place = batch["across"].flatten(0, -3).to(maps)[:, None]
    x, y = _middles(maps.shape[-2], maps.shape[-1], maps.dtype, maps.device)
    # As sums, since matrix products may be rounded to ten bits on a GPU.
    grid = torch.addcmul(torch.addcmul(place[..., 2], x, place[..., 0]), y, place[..., 1])
    grid = grid.unflatten(1, maps.shape[-2:])
    shown = torch.linalg.vector_norm(grid, torch.inf, -1) < 1
    found = F.grid_sample(maps, grid, padding_mode="border", align_corners=False)
    return found * shown[:, None], shown


@lru_cache(maxsize=16)
def _middles(
    rows: int, columns: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Middles of a map's positions along columns and along rows, ``(rows · columns, 1)`` each."""
    with torch.inference_mode(False):
        y, x = torch.meshgrid(
            *((2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1 for n in (rows, columns)),
            indexing="ij",
        )
        return x.reshape(-1, 1).to(device, dtype), y.reshape(-1, 1).to(device, dtype)


def alignment_in_patient(pairs: Tensor, batch: Batch, window: int) -> Tensor:
    """:func:`~situs.methods.sal.local_alignment` in windows that lie over one place of the patient.

    Views of near slices are turned, enlarged and shifted independently, so a window of the one
    shows another part of the patient than the same window of the other. Here the second map is
    brought under the first one; positions that only one of the views shows do not count. With
    windows the term says where a match must be, which the features then have to tell.

    Args:
        pairs: ``(N, 2, D, h, w)`` features of both slices of each pair.
        batch: Of views.
        window: Positions a side.

    Returns:
        Scalar, 0 (all matched) to 2; 0 where the views of no pair overlap.
    """
    # Autocast must not narrow places.
    with torch.autocast(pairs.device.type, enabled=False):
        first, second = at_least_single(pairs).unbind(1)
        under, shown = registered(second, batch)
        return aligned(unit(torch.stack([first, under], 1), 2), window, shown)
