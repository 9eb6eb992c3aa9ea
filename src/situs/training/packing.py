"""A batch on its way from a loader process: its small tensors travel together.

Each tensor that a process hands over is a file descriptor and a message of its own, about a
millisecond on two cores, however small it is; a batch of slices with their places holds a dozen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

_SMALL = 2**20
"""Bytes below which a copy costs less than a message."""


@dataclass(frozen=True)
class _Slot:
    """Where a tensor lies in the one of its kind."""

    dtype: torch.dtype
    start: int
    shape: tuple[int, ...]


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
        pinned = {dtype: tensor.pin_memory() for dtype, tensor in self.together.items()}
        return Packed(_mapped(self.batch, _pinned), pinned)


def collate_packed(samples: list[Any]) -> Packed:
    """Collate samples as ``DataLoader`` does, and pack the batch."""
    parts: dict[torch.dtype, list[Tensor]] = {}
    ends: dict[torch.dtype, int] = {}

    def placed(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.nbytes >= _SMALL:
            return leaf
        start = ends.get(leaf.dtype, 0)
        ends[leaf.dtype] = start + leaf.numel()
        parts.setdefault(leaf.dtype, []).append(leaf.reshape(-1))
        return _Slot(leaf.dtype, start, tuple(leaf.shape))

    batch = _mapped(default_collate(samples), placed)
    return Packed(batch, {dtype: torch.cat(tensors) for dtype, tensors in parts.items()})


def unpacked(packed: Packed) -> Any:
    """The batch as it was collated; its small tensors share memory, none with another's place."""

    def taken(leaf: Any) -> Any:
        if not isinstance(leaf, _Slot):
            return leaf
        count = torch.Size(leaf.shape).numel()
        return packed.together[leaf.dtype][leaf.start : leaf.start + count].view(leaf.shape)

    return _mapped(packed.batch, taken)


def _pinned(leaf: Any) -> Any:
    return leaf.pin_memory() if isinstance(leaf, Tensor) else leaf


def _mapped(batch: Any, change: Callable[[Any], Any]) -> Any:
    """The same dictionaries and lists with every leaf changed."""
    if isinstance(batch, dict):
        return {key: _mapped(value, change) for key, value in batch.items()}
    if isinstance(batch, list):
        return [_mapped(value, change) for value in batch]
    return change(batch)
