"""The three terms of s2dc (arXiv 2507.02581) as functions; each can be used alone.

``matches`` is boolean ``(B, M, N)``, true where source token m and moved token n are each other's
nearest. ``valid`` of the same shape leaves out pairs with a token in padding. Every term is the
mean over samples of a value that each sample gives on its own; a sample without matches, or
without non-matches, contributes nothing to that part.

The formulas are the paper's; ``valid``, the margin of the logarithms and what happens in rows
without spread are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from situs.methods.distributed import gathered_still, rank
from situs.methods.precision import at_least_single

_MARGIN = 1e-6  # distance that probabilities keep from 0 and 1 before the logarithm
_TIE = 8  # roundings of a number near 1 within which the values of a row are equal


def discrepancy(plan: Tensor, matches: Tensor, valid: Tensor | None = None) -> Tensor:
    """Term ``p2p``: −mean log P on matches − mean log(1 − P) on non-matches.

    Args:
        plan: Log plan ``(B, M+1, N+1)`` as :func:`~situs.methods.s2dc.log_sinkhorn` gives it. Its
            exponential is accepted too: the two cannot be taken for each other, since every log
            plan has a negative entry and no plan has one. The dustbin is not looked at, and may
            be absent.
        matches: ``(B, M, N)``, boolean.
        valid: ``(B, M, N)``, boolean; pairs that count. All by default.

    Returns:
        Scalar.
    """
    matches = matches.bool()
    log_plan = _as_log(plan)[..., : matches.shape[-2], : matches.shape[-1]]
    log_plan = log_plan.clamp(max=0.0)
    others = ~matches if valid is None else valid & ~matches
    hits = matches if valid is None else valid & matches
    # log(1 − P) from log P, without forming 1 − P.
    log_rest = torch.log(-torch.expm1(log_plan.clamp(max=-_MARGIN)))
    return -(masked_mean(log_plan, hits) + masked_mean(log_rest, others)).mean()


def consistency(similarity: Tensor, matches: Tensor, valid: Tensor | None = None) -> Tensor:
    """Term ``p2s``: clear matches are pulled together, weighted by how clear they are.

    With M = (1 + S) / 2, the sharpness of a token is (max − mean) / std of its row (or column)
    of M, and w its softmax over tokens. The term is the sum of −w log M over the matches, rows
    and columns averaged, minus the mean of log(1 − M) over the non-matches.

    Args:
        similarity: Cosines ``(B, M, N)``.
        matches: ``(B, M, N)``, boolean.
        valid: ``(B, M, N)``, boolean; pairs that count. All by default.

    Returns:
        Scalar.
    """
    matches = matches.bool()
    likeness = (1 + similarity) / 2
    rows = torch.softmax(_sharpness(likeness, valid), dim=-1)
    columns = torch.softmax(_sharpness(likeness.mT, None if valid is None else valid.mT), dim=-1)
    others = ~matches if valid is None else valid & ~matches
    hits = matches if valid is None else valid & matches
    bounded = likeness.clamp(_MARGIN, 1 - _MARGIN)
    weight = (rows[..., :, None] + columns[..., None, :]) / 2
    near = torch.where(hits, weight * -torch.log(bounded), 0.0).sum((-2, -1))
    far = masked_mean(-torch.log1p(-bounded), others)
    return (near + far).mean()


def sharpness(similarity: Tensor, valid: Tensor | None = None) -> Tensor:
    """How much each source token's best counterpart stands out, (max − mean) / std of its row.

    Args:
        similarity: Cosines ``(B, M, N)``.
        valid: ``(B, M, N)``, boolean; pairs that count. All by default.

    Returns:
        ``(B, M)``; the lowest number there is for tokens without a valid pair.
    """
    return _sharpness((1 + similarity) / 2, valid)


def info_nce(
    queries: Tensor,
    keys: Tensor,
    negatives: Tensor | None = None,
    temperature: float = 0.2,
    unit: bool = True,
    counted: Tensor | None = None,
) -> Tensor:
    """Term ``global``: each query's own key against all other keys and a queue.

    −log softmax of q·k / τ at the query's own key (arXiv 1807.03748), all vectors
    L2-normalised inside unless ``unit`` is False. Under ``torch.distributed`` the keys of all
    processes are gathered: each process's value is the mean over its own queries, so that the
    mean over processes, and after gradient averaging the gradient too, equal those of one process
    with the whole batch.

    Args:
        queries: ``(n, D)``; receive gradient.
        keys: ``(n, D)``, row i the counterpart of query i; detached. Every process must bring
            the same number.
        negatives: ``(K, D)``, further keys that match no query.
        temperature: τ.
        unit: Whether vectors are L2-normalised first.
        counted: ``(K,)`` boolean, which negatives there are; all by default.

    Returns:
        Scalar.
    """
    target = torch.arange(len(queries), device=queries.device) + rank() * len(queries)
    with torch.autocast(queries.device.type, enabled=False):
        own = at_least_single(queries)
        others = gathered_still(keys).to(own.dtype)
        if negatives is not None:
            others = torch.cat([others, negatives.to(own.dtype)])
        if unit:
            own, others = (nn.functional.normalize(v, dim=-1) for v in (own, others))
        logits = own @ others.mT
        if counted is not None:
            absent = nn.functional.pad(~counted, (logits.shape[-1] - len(counted), 0))
            logits = logits.masked_fill(absent, -torch.inf)
        return nn.functional.cross_entropy(logits / temperature, target)


def _as_log(plan: Tensor) -> Tensor:
    """``plan`` if it is a log plan, else its logarithm."""
    # Decided on the device: asking would wait for it.
    logarithm = torch.log(plan.clamp(min=torch.finfo(plan.dtype).tiny))
    return torch.where((plan < 0).any(), plan, logarithm)


def masked_mean(values: Tensor, mask: Tensor, dim: tuple[int, ...] = (-2, -1)) -> Tensor:
    """Mean over the axes ``dim`` where ``mask``; 0 where it is empty."""
    total = torch.where(mask, values, 0.0).sum(dim)
    return total / mask.sum(dim).clamp(min=1)


def _sharpness(likeness: Tensor, valid: Tensor | None) -> Tensor:
    """(max − mean) / std along the last axis, among valid entries."""
    if valid is None:
        count = likeness.new_tensor(likeness.shape[-1])
        inside, peak = likeness, likeness.amax(-1)
    else:
        count = valid.sum(-1)
        inside = torch.where(valid, likeness, 0.0)
        peak = torch.where(valid, likeness, -1.0).amax(-1)
    mean = inside.sum(-1) / count.clamp(min=1)
    squares = (inside - mean[..., None]).square()
    if valid is not None:
        squares = torch.where(valid, squares, 0.0)
    variance = squares.sum(-1) / (count - 1).clamp(min=1)
    # A row of one value, or of values equal but for rounding, has no spread and no peak: its
    # sharpness is 0. All others are exact: a constant added to the variance would bend the
    # gradient of rows whose values nearly tie.
    spread = variance > (_TIE * torch.finfo(likeness.dtype).eps) ** 2
    sharp = torch.where(spread, (peak - mean) / torch.sqrt(torch.where(spread, variance, 1.0)), 0.0)
    # A softmax over nothing but the lowest number stays defined.
    return torch.where(count == 0, torch.finfo(sharp.dtype).min, sharp)
