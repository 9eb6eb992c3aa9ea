"""A batch on its way from a loader process: its small tensors travel together.

Each tensor that a process hands over is a file descriptor and a message of its own, about a
millisecond on two cores, however small it is; a batch of slices with their places holds a dozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data._utils.collate import collate, collate_tensor_fn, default_collate_fn_map

_SMALL = 2**20
"""Bytes below which a copy costs less than a message."""

_LINE = 64
"""Bytes that tensors of their own are aligned to: MKL promises the same rounding only for these."""


class _Slot(NamedTuple):
    """Where a tensor lies in the one of its kind."""

    dtype: torch.dtype
    start: int
    shape: torch.Size


@dataclass
class Packed:
    """A batch whose small tensors stand in one tensor of each kind.

    Attributes:
        batch: The batch, with places instead of those tensors.
        together: The tensors of each kind, one behind the other.
    """

    batch: Any
    together: dict[torch.dtype, Tensor]

    def pin_memory(self) -> Packed:
        """The same in memory that a GPU reads by itself; ``DataLoader`` calls it."""
        batch, together = apply_to_collection(
            (self.batch, self.together), Tensor, Tensor.pin_memory
        )
        return Packed(batch, together)


def _stacked(tensors: list[Tensor], **options: Any) -> Tensor:
    """As ``DataLoader`` stacks them; small ones in memory of this process, from where they go on.

    In a loader process each would be a file in shared memory first: a quarter of a millisecond.
    """
    if len(tensors) * tensors[0].nbytes < _SMALL:
        return torch.stack(tensors)
    stacked: Tensor = collate_tensor_fn(tensors, **options)
    return stacked


_COLLATE = {**default_collate_fn_map, Tensor: _stacked}


def collate_packed(samples: list[Any]) -> Packed:
    """Collate samples as ``DataLoader`` does, and pack the batch."""
    parts: dict[torch.dtype, list[Tensor]] = {}
    ends: dict[torch.dtype, int] = {}

    def placed(tensor: Tensor) -> Any:
        if tensor.nbytes >= _SMALL:
            return tensor
        part = F.pad(tensor.reshape(-1), (0, -tensor.numel() % (_LINE // tensor.itemsize)))
        start = ends.get(tensor.dtype, 0)
        ends[tensor.dtype] = start + part.numel()
        parts.setdefault(tensor.dtype, []).append(part)
        return _Slot(tensor.dtype, start, tensor.shape)

    batch = apply_to_collection(collate(samples, collate_fn_map=_COLLATE), Tensor, placed)
    return Packed(batch, {dtype: torch.cat(tensors) for dtype, tensors in parts.items()})


def unpacked(packed: Packed) -> Any:
    """The batch as it was collated; its small tensors share memory, none with another's place."""

    def taken(slot: _Slot) -> Tensor:
        kind = packed.together[slot.dtype]
        return kind[slot.start : slot.start + slot.shape.numel()].view(slot.shape)

    return apply_to_collection(packed.batch, _Slot, taken)
