"""Heads of ``planes``."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.methods.base import Network
from situs.methods.passes import few_at_a_time
from situs.methods.projection import pooled

Pool = Literal["max", "mean"]


class PlanesHeads(nn.Module):
    """Heat maps from the decoder, the slice's place from the pooled encoder features.

    Both are the paper's (arXiv 2403.16499), the maximum over the slice its authors' code's; the
    width of the layer between is ours.
    """

    def __init__(self, backbone: Backbone, roles: int, pool: Pool, hidden: int = 64) -> None:
        super().__init__()
        self.pool = pool
        self.lines = nn.Conv2d(backbone.decoder_channels, roles, kernel_size=1)
        self.location = nn.Sequential(
            nn.Linear(backbone.channels[-1], hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def place(self, coarse: Tensor) -> Tensor:
        """Places ``(N,)`` from coarse features ``(N, C, rows, columns)``.

        The authors' code takes the maximum over the slice.
        """
        whole = coarse.amax((2, 3)) if self.pool == "max" else coarse.mean((2, 3))
        place: Tensor = self.location(whole)[:, 0]
        return place


class Predicted(NamedTuple):
    """Of N images: ``heatmaps (N, R, rows, columns)``, ``location (N,)``, pooled ``features``."""

    heatmaps: Tensor
    location: Tensor
    features: Tensor


def predict(network: Network, images: Tensor) -> Predicted:
    """Heat maps and places of ``images (N, C, rows, columns)``."""
    heads: PlanesHeads = network.heads

    def forward(some: Tensor) -> Predicted:
        features = network.backbone.encode(some)
        whole = pooled(features)
        return Predicted(
            heatmaps=heads.lines(network.backbone.decode(features)),
            location=heads.place(features[-1]),
            features=whole,
        )

    return few_at_a_time(forward, network.backbone, images)


def places(network: Network, images: Tensor) -> Tensor:
    """Places ``(N,)`` alone, of ``images (N, C, rows, columns)``."""

    def forward(some: Tensor) -> Tensor:
        place: Tensor = network.heads.place(network.backbone.encode(some)[-1])
        return place

    return few_at_a_time(forward, network.backbone, images)
