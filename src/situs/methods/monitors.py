"""What tells a collapsing or drifting network from a healthy one; shared by all methods."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def feature_variance(features: Tensor) -> Tensor:
    """Total variance of L2-normalised features, 1 − ‖mean of the unit vectors‖².

    Free of scale: 0 when all features point the same way (collapse), 1 when they cancel.

    Args:
        features: ``(N, D)``.
    """
    unit = normalize(features.float(), dim=-1)
    return 1 - unit.mean(0).square().sum()


def effective_rank(features: Tensor) -> Tensor:
    """Number of directions that centred features use: exp of the entropy of their spectrum.

    Between 1 (one direction, or no variation at all) and min(N, D). Roy and Vetterli, "The
    effective rank", EUSIPCO 2007, with the singular values of the centred features.

    Args:
        features: ``(N, D)``.
    """
    centred = features.float() - features.float().mean(0)
    singular = torch.linalg.svdvals(centred)
    share = singular / singular.sum().clamp_min(torch.finfo(singular.dtype).tiny)
    return torch.exp(torch.special.entr(share).sum())


def collapse_warnings(
    variance: float,
    rank: float,
    remedy: str,
    min_variance: float = 0.02,
    min_rank: float = 2.0,
) -> tuple[str, ...]:
    """Plain-language warnings where features collapse, each with what to change.

    Args:
        variance: Of :func:`feature_variance`.
        rank: Of :func:`effective_rank`.
        remedy: What this method's user should change, as a sentence.
        min_variance: Below it features count as constant (ours).
        min_rank: Below it features count as one-dimensional (ours).
    """
    if variance < min_variance:
        # A part that all features share does no harm to a method that solves its task.
        told = f"features are nearly constant (variance {variance:.3f} of 1)"
        return (f"{told}: if scores do not rise, {remedy}",)
    if rank < min_rank:
        return (f"features use hardly more than one direction (rank {rank:.1f}): {remedy}",)
    return ()
