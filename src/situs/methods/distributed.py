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
    return torch.cat(all_gather(own.contiguous())) if size() > 1 else own


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
        axes = [axis for axis in range(input.ndim) if axis != 1]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        values = input.float()
        count = size() * mean_count(input.new_tensor(input.numel() // input.shape[1])).float()
        mean = all_reduce(values.sum(axes)) / count
        centred = values - mean.view(shape)
        variance = all_reduce(centred.square().sum(axes)) / count
        if self.training and self.running_mean is not None:
            self._remember(mean, variance * count / (count - 1).clamp_min(1))
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        running_mean, running_var = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
        seen = cast(Tensor, self.num_batches_tracked)
        seen.add_(1)
        momentum = self.momentum if self.momentum is not None else 1 / float(seen)
        running_mean.lerp_(mean.to(running_mean), momentum)
        running_var.lerp_(variance.to(running_var), momentum)


def synchronise(module: nn.Module) -> None:
    """Let every batch normalisation inside see all processes, in place; nothing else changes."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            part.__class__ = BatchNorm  # type: ignore[assignment]
