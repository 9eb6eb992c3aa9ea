"""Heads of ``planes``."""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.methods.base import Network
from situs.methods.projection import pooled


class PlanesHeads(nn.Module):
    """Heat maps from the decoder, the slice's place from the pooled encoder features."""

    def __init__(self, backbone: Backbone, roles: int, hidden: int = 64) -> None:
        super().__init__()
        self.lines = nn.Conv2d(backbone.decoder_channels, roles, kernel_size=1)
        self.location = nn.Sequential(
            nn.Linear(backbone.channels[-1], hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )


class Predicted(NamedTuple):
    """Of N images: ``heatmaps (N, R, rows, columns)``, ``location (N,)``, pooled ``features``."""

    heatmaps: Tensor
    location: Tensor
    features: Tensor


def predict(network: Network, images: Tensor) -> Predicted:
    """Heat maps and places of ``images (N, C, rows, columns)``."""
    heads = cast(PlanesHeads, network.heads)
    features = network.backbone.encode(images)
    whole = pooled(features)
    return Predicted(
        heatmaps=heads.lines(network.backbone.decode(features)),
        location=heads.location(whole)[:, 0],
        features=whole,
    )
