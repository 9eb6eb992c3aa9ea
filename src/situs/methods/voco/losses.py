"""Overlap prediction and base regularisation.

Wu, Zhuang and Chen, "VoCo: A Simple-yet-Effective Volume Contrastive Learning Framework for 3D
Medical Image Analysis", CVPR 2024, arXiv 2402.17300, section 3. Where the printed formulas and
the authors' code differ, ``form`` chooses.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from situs.methods.precision import at_least_single, cosines

Form = Literal["paper", "released"]

# Keeps the logarithm finite where a crop is put exactly where it is not; ours in form 'paper'.
_EPSILON = 1e-6


def predicted_overlap(crops: Tensor, bases: Tensor) -> Tensor:
    """Cosine similarity of crops to bases, negative values clipped to 0.

    Args:
        crops: ``(B, R, D)``.
        bases: ``(B, K, D)``.

    Returns:
        ``(B, R, K)`` in [0, 1].
    """
    # Rounding can exceed 1 by an ulp, which the logarithm would punish with a wrong sign.
    return cosines(crops, bases).clamp(0, 1)


def prediction(predicted: Tensor, overlap: Tensor, form: Form = "paper") -> Tensor:
    """How far predicted overlaps are from true ones.

    With d = |overlap − predicted|: ``"paper"`` is the mean over crops and bases of −log(1 − d)
    (equation 3). ``"released"`` averages −log(1 − d) with the overlaps as weights, and adds the
    mean square of the prediction at bases that a crop does not touch, so that the many empty
    pairs do not outweigh the few true ones.

    Args:
        predicted: ``(B, R, K)`` of :func:`predicted_overlap`.
        overlap: ``(B, R, K)`` true shares in [0, 1].
        form: See above.
    """
    surprise = -torch.log(1 - (overlap - predicted).abs() + _EPSILON)
    if form == "paper":
        return surprise.mean()
    empty = (overlap == 0).to(predicted.dtype)
    touched = (surprise * overlap).sum((1, 2)) / (overlap.sum((1, 2)) + _EPSILON)
    apart = (predicted.square() * empty).sum((1, 2)) / (empty.sum((1, 2)) + _EPSILON)
    return (touched + apart).mean()


def regularization(bases: Tensor, form: Form = "paper") -> Tensor:
    """Mean similarity of pairs of bases, which should be unlike each other.

    ``"paper"`` averages |cosine| over pairs (equation 5); ``"released"`` the square of its
    positive part, with the gradient stopped at the second base of each pair.

    Args:
        bases: ``(B, K, D)``.
        form: See above.
    """
    unit = F.normalize(at_least_single(bases), dim=-1)
    first, second = torch.triu_indices(unit.shape[1], unit.shape[1], 1, device=unit.device)
    other = unit if form == "paper" else unit.detach()
    similarity = (unit[:, first] * other[:, second]).sum(-1)
    if form == "paper":
        return similarity.abs().mean()
    return similarity.clamp_min(0).square().mean()
