"""A batch on its way from a loader process: its tensors travel as one.

Each tensor that a process hands over is a file descriptor that its peer asks for through a socket,
with a handshake that a thread of the loader process must answer, however small the tensor is; a
batch of slices with their places holds a dozen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data._utils.collate import collate, default_collate_fn_map

_LINE = 64
"""Bytes that tensors are aligned to: MKL promises the same rounding only for these."""


class _Slot(NamedTuple):
    """Where a tensor of a batch lies."""

    dtype: torch.dtype
    start: int
    shape: torch.Size

    def of(self, memory: Tensor) -> Tensor:
        """The tensor itself, no view of another: autograd counts what is written to it alone."""
        tensor, start = torch.empty(0, dtype=self.dtype), self.start // self.dtype.itemsize
        storage = memory.untyped_storage()
        return tensor.set_(storage, start, self.shape)  # type: ignore[call-overload]


@dataclass
class Packed:
    """A batch whose tensors lie in one piece of memory.

    Attributes:
        batch: The batch, with places instead of tensors.
        memory: ``(N,)`` bytes.
    """

    batch: Any
    memory: Tensor

    def pin_memory(self) -> Packed:
        """The same in memory that a GPU reads by itself; ``DataLoader`` calls it."""
        return Packed(self.batch, self.memory.pin_memory())


class _Packing:
    """Collates as ``DataLoader`` does, and notes where each tensor will lie."""

    def __init__(self) -> None:
        self.parts: list[tuple[_Slot, list[Tensor]]] = []
        self.bytes = 0

    def stacked(self, tensors: list[Tensor], **options: Any) -> _Slot:
        """Of one tensor for each sample."""
        del options
        return self._kept(tensors, torch.Size((len(tensors), *tensors[0].shape)))

    def after(self, collated: Callable[..., Any]) -> Callable[..., Any]:
        """As ``collated`` does, where its tensors, of numbers, have a place, too."""

        def kept(values: list[Any], **options: Any) -> Any:
            made = collated(values, **options)
            if not isinstance(made, Tensor):
                return made
            return self._kept([made[None]], made.shape)

        return kept

    def _kept(self, tensors: list[Tensor], shape: torch.Size) -> _Slot:
        # Of several types the one that holds them all, as without loader processes.
        dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
        slot = _Slot(dtype, self.bytes, shape)
        self.parts.append((slot, tensors))
        self.bytes += -(-math.prod(shape) * slot.dtype.itemsize // _LINE) * _LINE
        return slot


def collate_packed(samples: list[Any]) -> Packed:
    """Collate samples as ``DataLoader`` does, and pack the batch."""
    packing = _Packing()
    ways = {kind: packing.after(way) for kind, way in default_collate_fn_map.items()}
    batch = collate(samples, collate_fn_map={**ways, Tensor: packing.stacked})
    # Shared before it is written, so that nothing is copied twice.
    memory = torch.empty(0, dtype=torch.uint8)
    memory.set_(torch.UntypedStorage._new_shared(packing.bytes))
    for slot, tensors in packing.parts:
        out = slot.of(memory)
        torch.stack(tensors, out=out.view(len(tensors), *tensors[0].shape))
    return Packed(batch, memory)


def unpacked(packed: Packed) -> Any:
    """The batch as it was collated; its tensors share memory, none another's place."""
    return apply_to_collection(packed.batch, _Slot, lambda slot: slot.of(packed.memory))
