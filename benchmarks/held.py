"""Memory that a training step holds at its most, counted without a GPU.

``python -m benchmarks.held [WORD …]``, for rows of ``benchmarks.gpu`` at their full size under bf16
autocast. Nothing is computed: torch's fake tensors have shapes and no values, and every storage
counts from its making until nobody holds it. So a step that takes 60 GiB is counted on a laptop,
in seconds. Not counted is what kernels borrow for themselves (workspaces of convolutions), which a
GPU adds. Kept in float32 is what CUDA's autocast keeps so: norms, softmax.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks import gpu, launches
from benchmarks.launches import Watching
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from situs.backbones import window_attention
from situs.methods.s2dc import sinkhorn
from situs.views import ArraySource

BLOCK = 512  # bytes: of what CUDA's allocator gives out
# One for all rows: tables that geometry keeps are made once.
NO_VALUES = FakeTensorMode(allow_non_fake_inputs=True)
IN_FLOAT32 = ((F, "layer_norm"), (F, "group_norm"), (Tensor, "softmax"))


class Held(Watching):
    """Counts bytes of storages while active; ``most`` is the largest sum so far."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def add(self, tensor: Tensor) -> None:
        """Count what ``tensor`` holds, once, until nobody does."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, -(-storage.nbytes() // BLOCK) * BLOCK
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

    def seen(self, func: Any, out: Any) -> None:
        """Count what an operation gives."""
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.add(leaf)


def held(row: gpu.Row, scan: ArraySource) -> tuple[int, int]:
    """Bytes that stay between two steps of a row, and the most that are held within one."""
    step = gpu.Step(row, scan, small=False)
    with NO_VALUES, Held() as count:
        for module in step.module.modules():
            for own in (module._parameters, module._buffers):
                own.update({name: emptied(value) for name, value in own.items()})
        step.batch = tree_map_only(Tensor, emptied, step.batch)
        step.optimiser = step.module.configure_optimizers()["optimizer"]
        for tensor in (*step.module.parameters(), *step.module.buffers()):
            count.add(tensor)
        step.step()  # the optimiser's state is made
        between, count.most = count.now, 0
        step.step()
    return between, count.most


def emptied(tensor: Any) -> Any:
    """The same without values; None stays."""
    if tensor is None:
        return None
    like = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(like, requires_grad=tensor.requires_grad)
    return like


def fused(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropped: float, scale: float
) -> Any:
    """Attention by the kernel that CUDA takes where a mask wants a gradient."""
    bias = None if mask is None else mask.expand(*q.shape[:-1], k.shape[-2])
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return kernel(q, k, v, bias, True, dropped, scale=scale)[0]


def in_float32(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same of float32 tensors, as under CUDA's autocast; the CPU's keeps bf16 there."""

    def cast(*args: Any, **kwargs: Any) -> Tensor:
        floats = tree_map_only(Tensor, Tensor.float, (args, kwargs))
        return call(*floats[0], **floats[1])

    return cast


def as_on_a_gpu() -> None:
    """As for launches; fused kernels, float32 where CUDA keeps it, nothing asked of values."""
    launches.as_on_a_gpu()
    window_attention.has_kernel = lambda x, width: True
    F.scaled_dot_product_attention = fused  # type: ignore[assignment]
    for owner, name in IN_FLOAT32:
        setattr(owner, name, in_float32(getattr(owner, name)))
    everything: Callable[..., Any] = sinkhorn._unasked

    def potentials(couplings: Tensor, iterations: int, tolerance: float | None) -> Any:
        u, v = -couplings.amax(2), couplings.new_zeros(couplings.shape[0], couplings.shape[2])
        return everything(couplings, u, v, iterations)

    sinkhorn._potentials = potentials


def main() -> None:
    """One line a row."""
    warnings.simplefilter("ignore")
    as_on_a_gpu()
    scan = gpu.noise(small=False)
    print(f"{'GiB':40s}between    most")
    for row in gpu.ROWS:
        if not sys.argv[1:] or any(word in row.name for word in sys.argv[1:]):
            between, most = held(row, scan)
            print(f"{row.name:40s}{between / 2**30:7.2f}{most / 2**30:8.2f}", flush=True)


if __name__ == "__main__":
    main()
