"""The projection head with its prototypes, and the centre of the teacher's answers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from situs.methods.dino.config import DinoConfig
from situs.methods.distributed import BatchNorm
from situs.methods.precision import at_least_single, product


class _BatchNorm(BatchNorm):
    """Over all views and samples of ``(…, features)``, of all processes."""

    def forward(self, input: Tensor) -> Tensor:
        """The same shape."""
        normalised: Tensor = super().forward(input.flatten(0, -2))
        return normalised.view_as(input)


class DinoHeads(nn.Module):
    """Three layers, a normalised embedding, and prototypes of unit length.

    Section 3.1 of arXiv 2104.14294; layer normalisation instead of none is ours, so that small
    networks start evenly.

    Attributes:
        center: Running mean of the teacher's logits, ``(prototypes,)``.
    """

    center: Tensor

    def __init__(self, channels: int, config: DinoConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Linear(channels, config.hidden),
            nn.LayerNorm(config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.bottleneck),
        ]
        if config.head_norm == "batch":
            layers[1] = _BatchNorm(config.hidden)
            ends = [_BatchNorm(size, affine=False) for size in (channels, config.bottleneck)]
            layers = [ends[0], *layers, ends[1]]
        self.embed = nn.Sequential(*layers)
        prototypes = torch.empty(config.prototypes, config.bottleneck)
        self.prototypes = nn.Parameter(nn.init.trunc_normal_(prototypes, std=0.02))
        self.register_buffer("center", torch.zeros(config.prototypes))

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``(…, prototypes)`` of pooled features ``(…, channels)``."""
        embedded = F.normalize(at_least_single(self.embed(features)), dim=-1)
        return product(embedded, F.normalize(self.prototypes, dim=-1).mT)
