"""Losses that know their gradient: few launches instead of a graph of many small ones.

A network of small kernels starts them as fast as the host can; a loss of a hundred of them, each
with its own step backward, then costs as much as half of the network. Where a gradient is short
to write out it is computed with the value, outside of autograd, and handed on by :func:`known`.

The losses are their papers', named where they stand; the gradients written out are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_LEAST_NORM = 1e-12  # as torch's normalize


def known(value: Tensor, gradients: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """A scalar that was computed together with its gradient.

    Args:
        value: ``()``, without gradient.
        gradients: What it depends on, each with the derivative of ``value``.

    Returns:
        ``value``, through which gradients flow to what it depends on.
    """
    inputs, slopes = zip(*gradients, strict=True)
    carried: Tensor = _Known.apply((value, slopes), *inputs)
    return carried


def unit(x: Tensor, dim: int) -> Tensor:
    """``x`` divided by its length along ``dim``; zeros where that is zero."""
    directions: Tensor = _Unit.apply(x, dim)
    return directions


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, found: tuple[Tensor, Sequence[Tensor]], *inputs: Tensor) -> Tensor:
        del inputs
        # Autograd does not look into a tuple: to it the value is made here, and needs no copy.
        value, slopes = found
        ctx.save_for_backward(*slopes)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *(slope * grad for slope in ctx.saved_tensors))


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=dim, keepdim=True).clamp_min_(_LEAST_NORM)
        directions = x / length
        ctx.save_for_backward(directions, length)
        ctx.dim = dim
        return directions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        directions, length = ctx.saved_tensors
        along = (grad * directions).sum(ctx.dim, keepdim=True)
        return torch.addcmul(grad, directions, along, value=-1).div_(length), None
