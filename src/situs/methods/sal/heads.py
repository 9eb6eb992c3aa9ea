"""Heads of ``sal``."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch.nn.functional as F
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.methods.base import Network
from situs.methods.projection import Projector, pooled
from situs.methods.sal.config import SalConfig


class SalHeads(nn.Module):
    """Embeddings of positions, and of whole slices (or their place along the scan)."""

    def __init__(self, backbone: Backbone, config: SalConfig) -> None:
        super().__init__()
        self.stride = config.stride
        self.local = nn.Conv2d(backbone.decoder_channels, config.embedding, kernel_size=1)
        # One place along the scan for each of the three directions a stack can have.
        out = config.width if config.position == "contrast" else 3
        self.slice = Projector(backbone.channels[-1], config.hidden, out)

    def embed_positions(self, dense: Tensor) -> Tensor:
        """``(N, C, rows, columns)`` decoder features → ``(N, D, rows/stride, columns/stride)``."""
        embedded: Tensor = self.local(F.avg_pool2d(dense, self.stride))
        return embedded


class Embedded(NamedTuple):
    """What the heads say of N slices: ``positions (N, D, h, w)`` and ``slices (N, W)``."""

    positions: Tensor
    slices: Tensor


def embed(network: Network, slices: Tensor) -> Embedded:
    """Embeddings of slices ``(N, C, rows, columns)``."""
    heads = cast(SalHeads, network.heads)
    features = network.backbone.encode(slices)
    return Embedded(
        positions=heads.embed_positions(network.backbone.decode(features)),
        slices=heads.slice(pooled(features)),
    )
