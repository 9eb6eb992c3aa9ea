"""What ``s2dc`` trains besides the backbone, and its queue of keys.

Three layers and a queue are the authors' (arXiv 2507.02581; the queue is MoCo's, arXiv 1911.05722);
that it holds moved copies by default, and is the same on every process, is ours.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from situs.methods.distributed import gathered_still
from situs.methods.projection import Projector
from situs.methods.s2dc.config import S2dcConfig


class Projection(nn.Module):
    """Three-layer projection head; output in float32.

    Args:
        in_features: Channels of the features.
        hidden: Width of both hidden layers.
        out_features: Dimensions of the output.
        norm: ``"batch"`` or ``"layer"``, without weights of its own. Batch statistics are those
            of the batch at hand, over all processes, in evaluation too, so the average of two
            networks needs none. Three layers and ``"batch"`` are the authors'.
        unit: Whether the output is L2-normalised.
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        out_features: int,
        norm: Literal["batch", "layer"],
        unit: bool = True,
    ) -> None:
        super().__init__()
        self.unit = unit
        self.layers = Projector(in_features, hidden, out_features, 3, norm, affine=False)

    def forward(self, features: Tensor) -> Tensor:
        """``(…, in_features)`` → ``(…, out_features)``."""
        projected: Tensor = self.layers(features).float()
        return normalize(projected, dim=-1) if self.unit else projected


class KeyQueue(nn.Module):
    """The latest keys, first in first out; the same on every process.

    Lives in buffers, so that a checkpoint holds it.

    Args:
        size: Keys kept.
        features: Dimensions of a key.
    """

    stored: Tensor
    position: Tensor
    filled: Tensor

    def __init__(self, size: int, features: int) -> None:
        super().__init__()
        self.register_buffer("stored", torch.zeros(size, features))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def keys(self) -> Tensor:
        """What is stored, ``(K, D)``, K growing up to the size; a copy that a later push spares."""
        return self.stored[: int(self.filled)].clone()

    def slots(self) -> tuple[Tensor, Tensor]:
        """All places ``(size, D)`` as a copy, and which of them hold a key ``(size,)``.

        :meth:`keys` must ask a device how many there are; this does not.
        """
        places = torch.arange(len(self.stored), device=self.stored.device)
        return self.stored.clone(), places < self.filled

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Add the keys ``(n, D)`` of all processes in place of the oldest."""
        size = len(self.stored)
        if size == 0:
            return
        keys = gathered_still(keys).to(self.stored.dtype)[-size:]
        place = (self.position + torch.arange(len(keys), device=self.stored.device)) % size
        self.stored[place] = keys
        self.position.copy_((self.position + len(keys)) % size)
        self.filled.copy_((self.filled + len(keys)).clamp(max=size))


class S2dcHeads(nn.Module):
    """Projections of tokens and of crops, the dustbin's score, and the queue."""

    dustbin: Tensor

    def __init__(self, token_channels: int, crop_channels: int, config: S2dcConfig) -> None:
        super().__init__()
        self.tokens = Projection(token_channels, config.hidden, config.features, config.norm)
        self.crops = Projection(
            crop_channels, config.hidden, config.features, config.norm, config.global_unit
        )
        if config.dustbin is None:
            self.dustbin = nn.Parameter(torch.ones(()))
        else:
            self.register_buffer("dustbin", torch.tensor(config.dustbin))
        self.queue = KeyQueue(config.queue_size, config.features)
