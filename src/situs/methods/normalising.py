"""Normalisation of large feature maps with few passes over them, of all places or of some.

torch's group normalisation sums each group in one block of threads: with one group a sample, a
GPU of a hundred multiprocessors lets two of them work. Autocast also widens it to float32, at
the full resolution. Here sums are spread over the whole device and kept in float32 (in float64
for inputs of that kind), while maps are read and written in the precision they have.

The formulas are those of group and batch normalisation (arXiv 1803.08494, 1502.03167) with their
gradients written out; statistics of some places only are what sparse masking asks for (SparK, arXiv
2301.03580). How sums are spread is ours.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    mask: Tensor | None = None,
) -> Tensor:
    """Group normalisation, of visible places only where a mask is given.

    With S and Q the sums of x and x² over a group's n visible places, m = S / n and
    v = Q / n − m², y = (x − m) / √(v + eps) · weight + bias at visible places and 0 elsewhere.

    Args:
        x: ``(B, C, *spatial)``; with a mask, 0 at hidden places.
        groups: Of channels; as many as channels for instance normalisation.
        weight: ``(C,)``.
        bias: ``(C,)``.
        eps: Added to the variance.
        mask: ``(B, 1, *spatial)``, 1 at visible places and 0 at hidden ones, in the dtype of x.

    Returns:
        Like ``x``. Hidden places receive a gradient that means nothing: whoever made them 0 by
        multiplication discards it.
    """
    with torch.autocast(x.device.type, enabled=False):
        y: Tensor = _GroupNorm.apply(x, groups, weight, bias, eps, mask)
    return y


class GroupNorm(nn.GroupNorm):
    """torch's group normalisation by :func:`group_norm`; names in the state are the same."""

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, *spatial)`` → the same shape and precision."""
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        groups: int,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        mask: Tensor | None,
    ) -> Tensor:
        space, wide = tuple(range(2, x.ndim)), _wide(x)
        total = x.sum(space, dtype=wide)
        squares = torch.linalg.vector_norm(x, dim=space, dtype=wide).square()
        if mask is None:
            places = total.new_full((len(x), 1), x[0, 0].numel())
        else:
            places = mask.sum(space, dtype=wide).clamp_min(1)
        count = places * (x.shape[1] // groups)
        mean = _of_groups(total, groups) / count
        variance = (_of_groups(squares, groups) / count - mean.square()).clamp_min(0)
        inverse = (variance + eps).rsqrt()
        scale = _by_channel(inverse, x) if weight is None else _by_channel(inverse, x) * weight
        shift = -_by_channel(mean, x) * scale
        y = _affine(x, scale, shift if bias is None else shift + bias)
        if mask is not None:
            y.mul_(mask)
        ctx.save_for_backward(x, mean, inverse, count, weight, mask)
        ctx.groups, ctx.biased = groups, bias is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, inverse, count, weight, mask = ctx.saved_tensors
        space, wide = tuple(range(2, x.ndim)), _wide(x)
        grad = grad if mask is None else grad * mask
        total = grad.sum(space, dtype=wide)
        m, r = _by_channel(mean, x), _by_channel(inverse, x)
        against = r * ((grad * x).sum(space, dtype=wide) - m * total)  # Σ g (x − m) / √(v + eps)
        of_weight = None if weight is None else against.sum(0).to(weight.dtype)
        of_bias = total.sum(0).to(weight.dtype if weight is not None else wide)
        scale = r
        if weight is not None:
            scale, total, against = r * weight, total * weight, against * weight
        # dx = scale · g − r · mean(g w) − r · x̂ · mean(g w x̂), sums over a group's places.
        flat = _by_channel(_of_groups(total, ctx.groups) / count, x)
        along = _by_channel(_of_groups(against, ctx.groups) / count, x) * r.square()
        of_x = _affine(grad, scale, along * m - r * flat)
        of_x.add_(_affine(x, -along, torch.zeros_like(along)))
        return of_x, None, of_weight, of_bias if ctx.biased else None, None, None


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _of_groups(values: Tensor, groups: int) -> Tensor:
    """Sums ``(B, C)`` → ``(B, groups)``."""
    return values.unflatten(1, (groups, -1)).sum(2)


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    """``(B, groups)`` → ``(B, C)``."""
    return values.repeat_interleave(x.shape[1] // values.shape[1], dim=1)


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale · x + shift``, ``(B, C)`` each, computed in their precision and kept in that of x."""
    if x.dtype == scale.dtype:
        shape = (*scale.shape, *(1,) * (x.ndim - 2))
        return torch.addcmul(shift.view(shape), x, scale.view(shape))
    # Batch normalisation by given statistics is the one kernel that reads half precision and
    # computes in single; a variance of ½ with an eps of ½ leaves scale and shift.
    rows = x.reshape(1, scale.numel(), -1)
    zero = torch.zeros_like(scale).flatten()
    half = torch.full_like(zero, 0.5)
    made = F.batch_norm(rows, zero, half, scale.flatten(), shift.flatten(), False, 0.0, 0.5)
    # No view: what follows may work in place, which autograd forbids on a view from a Function.
    unviewed: Tensor = torch.ops.aten._unsafe_view(made, x.shape)
    return unviewed
