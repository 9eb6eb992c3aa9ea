"""Gaps between sub-volumes: matrices, chunks along the line of centres, routes.

Gap matrix, chunks along the line of centres and routes are those of arXiv 2509.05967; ours is that
nothing is enumerated sample by sample. Everything is batched in the leading dimensions ``…`` and
works on torch tensors and numpy arrays (each gives its own kind). Frames are named by the callers
(``_vox``, ``_mm``); the formulas hold in any.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from situs.tensors import constant

ArrayT = TypeVar("ArrayT", Tensor, npt.NDArray[np.floating])


def _like(result: Tensor, given: ArrayT) -> ArrayT:
    """The result as a numpy array where a numpy array was given."""
    return result if isinstance(given, Tensor) else cast(ArrayT, result.numpy())


def gap_matrix(centers_mm: ArrayT) -> ArrayT:
    """All pairwise gaps, ``g[i, j] = c[j] − c[i]``.

    Args:
        centers_mm: ``(…, V, 3)`` centres of the views.

    Returns:
        ``(…, V, V, 3)``; antisymmetric, and additive along any path.

    Example:
        >>> gap_matrix(np.array([[0.0, 0.0, 0.0], [30.0, -10.0, 5.0]]))[0, 1].tolist()
        [30.0, -10.0, 5.0]
    """
    return centers_mm[..., None, :, :] - centers_mm[..., :, None, :]


def chunk_offsets(
    gap_vox: ArrayT,
    view_size: Sequence[int] | int,
    chunk_size: Sequence[int] | int,
) -> ArrayT:
    """Where a chunk goes inside a view: as far along the gap as the view allows.

    ``o = t·g`` with ``t = min over axes of ((view − chunk)/2) / |g|``: the largest t that keeps
    the chunk, centred at ``centre + o``, inside the view; the tightest axis decides.

    Args:
        gap_vox: ``(…, 3)`` gaps in voxels.
        view_size: Voxels of a view along each axis.
        chunk_size: Voxels of a chunk along each axis; at most ``view_size``.

    Returns:
        ``(…, 3)`` offsets in voxels from the view's centre; zero where the gap is zero, since
        there is no direction to go.

    Raises:
        ValueError: If a chunk is larger than a view.
    """
    gap = torch.as_tensor(gap_vox)
    gap = gap if gap.is_floating_point() else gap.to(torch.get_default_dtype())
    axes = gap.shape[-1]
    view, chunk = (
        [size] * axes if isinstance(size, int) else list(size) for size in (view_size, chunk_size)
    )
    if any(c > v for c, v in zip(chunk, view, strict=True)):
        raise ValueError(f"chunk_size {chunk_size} must not exceed view_size {view_size}")
    room = constant([(v - c) / 2 for v, c in zip(view, chunk, strict=True)], gap)
    # An axis without a gap never limits: room / 0 is inf (and nan for room 0, hence the where).
    steps = torch.where(gap == 0, torch.inf, room / gap.abs())
    t = steps.amin(dim=-1, keepdim=True)
    offset = torch.where(torch.isfinite(t), t, 0.0) * gap
    # Rounding must not push a chunk out of its view.
    return _like(offset.clamp(min=-room, max=room), gap_vox)


def route_sums(steps: ArrayT) -> ArrayT:
    """Sum of the steps along every route that starts at a view and visits all others.

    Args:
        steps: ``(…, V, V, 3)``; ``steps[i, j]`` leads from view i to view j.

    Returns:
        ``(…, V, (V−1)!, 3)``: for every start, over every order of visiting the other views (in
        lexicographic order), the sum of the V−1 steps. Where the steps are differences of
        positions every sum telescopes to last − start.
    """
    tensor = torch.as_tensor(steps)
    begin, end = _routes(tensor.shape[-2], tensor.device)
    sums = tensor[..., begin, end, :].sum(dim=-2)
    return _like(sums, steps)


@lru_cache(maxsize=16)
def _routes(views: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Index of each step's beginning and end, ``(V, (V−1)!, V−1)`` each."""
    orders = [
        [(start, *order) for order in permutations(v for v in range(views) if v != start)]
        for start in range(views)
    ]
    stops = torch.tensor(orders, device=device)
    return stops[..., :-1], stops[..., 1:]


def cycle_sums(steps: Tensor) -> Tensor:
    """Sum around every directed triangle, ``d[i, j] + d[j, k] + d[k, i]``; zero when consistent.

    Args:
        steps: ``(…, V, V, 3)``.

    Returns:
        ``(…, T, 3)`` for the T = V(V−1)(V−2)/3 triangles up to rotation; T is 0 when V < 3.
    """
    i, j, k = _triangles(steps.shape[-2], steps.device)
    return steps[..., i, j, :] + steps[..., j, k, :] + steps[..., k, i, :]


@lru_cache(maxsize=16)
def _triangles(views: int, device: torch.device) -> tuple[Tensor, ...]:
    """First, second and third view of each triangle, ``(T,)`` each."""
    triangles = [
        (i, j, k)
        for i, j, k in permutations(range(views), 3)
        if i == min(i, j, k)  # one representative of each rotation
    ]
    index = torch.tensor(triangles, device=device, dtype=torch.long).reshape(-1, 3)
    return index.unbind(-1)
