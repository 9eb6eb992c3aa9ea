"""What ``spatial`` minimises: the terms of arXiv 2509.05967, each usable alone.

``gap_axis``, ``gap_norm``, ``chunk_adjacent``, ``chunk_distant``, ``vector`` and ``route`` are the
paper's; ``cycle``, ``antisymmetry`` and ``voxel`` are ours. Gaps and steps are in normalised
lengths throughout (ours: the paper's are not normalised), shaped ``(…, V, V, 3)``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from situs.geometry import cycle_sums, route_sums


def off_diagonal(matrix: Tensor) -> Tensor:
    """The V(V−1) ordered pairs of different views: ``(…, V, V, K)`` → ``(…, V(V−1), K)``."""
    views = matrix.shape[-2]
    # Without the first entry, the others come in rows of V + 1 whose last is on the diagonal.
    rest = matrix.flatten(-3, -2)[..., 1:, :].unflatten(-2, (views - 1, views + 1))
    return rest[..., :-1, :].flatten(-3, -2)


def safe_norm(vectors: Tensor) -> Tensor:
    """Euclidean length of the last dimension, with a zero gradient (not NaN) at zero."""
    squared = vectors.square().sum(-1)
    zero = squared == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squared).sqrt())


def gap_axis(predicted: Tensor, true: Tensor, diagonal: bool = False) -> Tensor:
    """MSE(ĝ, g) over different views and axes.

    The authors' code averages over the zero diagonal too (``diagonal``): V / (V − 1) times less,
    1.5 at V = 3.
    """
    if diagonal:
        return F.mse_loss(predicted, true)
    return F.mse_loss(off_diagonal(predicted), off_diagonal(true))


def gap_norm(predicted: Tensor, true: Tensor) -> Tensor:
    """MSE(‖ĝ‖, ‖g‖) over different views."""
    return F.mse_loss(safe_norm(off_diagonal(predicted)), safe_norm(off_diagonal(true)))


def chunk_adjacent(near_i: Tensor, near_j: Tensor) -> Tensor:
    """−cos between the chunk of view i that faces j and the one of view j that faces i."""
    return -F.cosine_similarity(near_i, near_j, dim=-1).mean()


def chunk_distant(far_i: Tensor, far_j: Tensor) -> Tensor:
    """+cos between the chunks that face away from each other."""
    return F.cosine_similarity(far_i, far_j, dim=-1).mean()


def vector(steps: Tensor, true: Tensor) -> Tensor:
    """SmoothL1(d, g) over different views and axes."""
    return F.smooth_l1_loss(off_diagonal(steps), off_diagonal(true))


def route(steps: Tensor, true: Tensor) -> Tensor:
    """SmoothL1(sum of steps, true sum) over every start and every order of the other views.

    Where steps are differences of positions each sum telescopes to its last step, so that this
    term is :func:`vector` under another weight.
    """
    return F.smooth_l1_loss(route_sums(steps), route_sums(true))


def voxel(places: Tensor, other_places: Tensor, true: Tensor) -> Tensor:
    """SmoothL1(q_j(o) − q_i(o), g_ij) over the voxels of a view and axes; ours.

    The vector from the voxel at offset o in view i to the centre of view j is g_ij − o. Where a
    voxel lies in its own view is known and says nothing of anatomy, so it is given, not asked.
    Both views are read at the same offset: whatever the borders of a view tell of it is in both
    and cancels.

    Args:
        places: q_i, ``(…, 3, X, Y, Z)`` at every voxel of the view.
        other_places: q_j, of the other view.
        true: ``(…, 3)`` gaps g_ij from the view's centre to the other's.
    """
    steps = other_places - places
    return F.smooth_l1_loss(steps, true[..., None, None, None].expand_as(steps))


def cycle(steps: Tensor) -> Tensor:
    """‖d_ij + d_jk + d_ki‖² averaged over triangles and axes; 0 below three views; ours."""
    sums = cycle_sums(steps)
    return sums.square().mean() if sums.numel() else steps.sum() * 0.0


def antisymmetry(steps: Tensor) -> Tensor:
    """‖d_ij + d_ji‖² averaged over pairs and axes; ours."""
    return off_diagonal(steps + steps.transpose(-3, -2)).square().mean()
