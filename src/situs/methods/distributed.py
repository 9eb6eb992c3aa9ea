"""What a loss needs in order to be the same on many devices as on one.

Every process computes a share of the batch, and the gradients of all are averaged. A loss that
looks at samples one by one and averages them needs nothing of this. One that looks at several of
a batch, or divides by a number that differs between processes, asks here for all of them. In a
single process every function returns what it was given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather, all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from situs.methods.precision import at_least_single

_ALONE = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """What this process does by itself while others wait: it must ask them nothing."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def size() -> int:
    """Processes that share a batch."""
    if _ALONE.get() or not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size()


def rank() -> int:
    """Which of them this is."""
    return dist.get_rank() if size() > 1 else 0


def gathered(own: Tensor) -> Tensor:
    """Rows of all processes in order of rank, ``(W·n, …)``, with gradient to where they lie.

    Every process must bring the same number of rows.
    """
    if size() == 1:
        return own
    every = torch.cat(all_gather(own.contiguous()))
    if every.requires_grad:  # torch sends the gradient on as it lies in memory
        every.register_hook(Tensor.contiguous)
    return every


@torch.no_grad()
def gathered_still(own: Tensor) -> Tensor:
    """:func:`gathered` without gradient."""
    if size() == 1:
        return own
    parts = [torch.empty_like(own) for _ in range(size())]
    dist.all_gather(parts, own.contiguous())
    return torch.cat(parts)


@torch.no_grad()
def mean_count(count: Tensor) -> Tensor:
    """A number of things, averaged over processes.

    Dividing a process's sum by it gives values whose mean over processes is the mean over all
    things, however unevenly they are spread.
    """
    if size() == 1:
        return count
    total = count.detach().to(torch.float64 if count.device.type == "cpu" else torch.float32)
    dist.all_reduce(total)
    return total / size()


def divisor(count: Tensor) -> Tensor:
    """:func:`mean_count` of whole things, by which a sum over them can be divided.

    Where no process has any it is what a single one would give.
    """
    return mean_count(count).clamp_min(1 / size())


def share(drawn: Tensor) -> Tensor:
    """The rows of this process, of what was drawn for the samples of all."""
    own = len(drawn) // size()
    return drawn[rank() * own : (rank() + 1) * own]


class BatchNorm(_BatchNorm):
    """Batch normalisation over the samples of all processes, on any device.

    torch's own ``SyncBatchNorm`` runs on GPUs alone. Names in the state are those of torch's
    batch normalisations.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of spatial axes."""

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, …)`` → the same shape; a process may bring fewer values than another."""
        batch_statistics = self.training or self.running_mean is None
        if size() == 1 or not batch_statistics:
            return super().forward(input)
        return batch_norm(self, input)


def batch_norm(module: _BatchNorm, input: Tensor, mask: Tensor | None = None) -> Tensor:
    """What ``module`` gives of ``input``, of visible places only where a mask is given.

    Args:
        module: Looks at the samples of all processes if it is a :class:`BatchNorm`.
        input: ``(B, C, …)``.
        mask: ``(B, 1, …)``, 1 at visible places and 0 at hidden ones, where the result is 0.
    """
    visible = input.new_ones(()) if mask is None else mask
    if not module.training and module.running_mean is not None:
        still = nn.functional.batch_norm(
            input,
            module.running_mean,
            module.running_var,
            module.weight,
            module.bias,
            eps=module.eps,
        )
        return still * visible
    every = all_reduce if isinstance(module, BatchNorm) and size() > 1 else torch.clone
    axes = [axis for axis in range(input.ndim) if axis != 1]
    shape = [1, -1, *[1] * (input.ndim - 2)]
    values = at_least_single(input)
    places = values.new_full((), input.numel() // input.shape[1])
    count = every(places if mask is None else mask.sum(dtype=values.dtype)).clamp_min(1)
    mean = every((values * visible).sum(axes)) / count
    centred = (values - mean.view(shape)) * visible
    variance = every(centred.square().sum(axes)) / count
    if module.training and module.running_mean is not None:
        _remember(module, mean, variance * count / (count - 1).clamp_min(1))
    out = centred * torch.rsqrt(variance + module.eps).view(shape)
    if module.affine:
        out = out * module.weight.view(shape) + module.bias.view(shape) * visible
    return out.to(input.dtype)


@torch.no_grad()
def _remember(module: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    running_mean, running_var = cast(Tensor, module.running_mean), cast(Tensor, module.running_var)
    seen = cast(Tensor, module.num_batches_tracked)
    seen.add_(1)
    momentum = module.momentum if module.momentum is not None else 1 / float(seen)
    running_mean.lerp_(mean.to(running_mean), momentum)
    running_var.lerp_(variance.to(running_var), momentum)


def synchronise(module: nn.Module) -> None:
    """Let every batch normalisation inside see all processes, in place; nothing else changes."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            part.__class__ = BatchNorm  # type: ignore[assignment]
