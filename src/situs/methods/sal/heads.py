"""Heads of ``sal``."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.errors import ConfigError
from situs.methods.base import Network
from situs.methods.passes import few_at_a_time
from situs.methods.precision import at_least_single
from situs.methods.projection import Projector, pooled
from situs.methods.sal.config import SalConfig

_DECODER_STRIDE = 4


class PositionSource(NamedTuple):
    """Which features positions are embedded from.

    Attributes:
        stage: Of the encoder, fine to coarse; None for the decoder.
        channels: Of these features.
        pool: Features along each axis that make one position.
    """

    stage: int | None
    channels: int
    pool: tuple[int, int]


def position_source(backbone: Backbone, config: SalConfig) -> PositionSource:
    """The features that ``features`` and ``stride`` ask for.

    Raises:
        ConfigError: If no feature of the encoder fits the stride.
    """
    if config.features == "decoder":
        stride = config.stride or _DECODER_STRIDE
        return PositionSource(None, backbone.decoder_channels, (stride, stride))
    rows, columns = backbone.strides[-1]
    asked = (config.stride or rows, config.stride or columns)
    fitting = [
        stage
        for stage, stride in enumerate(backbone.strides)
        if all(a % s == 0 for a, s in zip(asked, stride, strict=True))
    ]
    if not fitting:
        raise ConfigError(
            f"stride {config.stride} is no multiple of a stride of this encoder "
            f"({', '.join(str(s[0]) for s in backbone.strides)}); take one of these, or set "
            "features: decoder"
        )
    stage = fitting[-1]
    rows, columns = backbone.strides[stage]
    pool = (asked[0] // rows, asked[1] // columns)
    return PositionSource(stage, backbone.channels[stage], pool)


class SalHeads(nn.Module):
    """Embeddings of positions, and of whole slices (or their place along the scan).

    The linear embedding of the encoder's features is the paper's; matching the decoder's, regressed
    places and the head of ``pixel`` are ours.
    """

    def __init__(self, backbone: Backbone, config: SalConfig) -> None:
        super().__init__()
        self.source = position_source(backbone, config)
        self.local = nn.Conv2d(self.source.channels, config.embedding, kernel_size=1)
        # One place along the scan for each of the three directions a stack can have.
        out = config.width if config.position == "contrast" else 3
        self.slice = Projector(backbone.channels[-1], config.hidden, out)
        # With a hidden layer, since the mean over a slice of anything that is linear in
        # normalised features is fixed.
        self.pixel: nn.Sequential | None = None
        if config.weight("pixel") > 0:
            self.pixel = nn.Sequential(
                nn.Conv2d(backbone.decoder_channels, config.pixel_width, kernel_size=1),
                nn.GELU(),
                nn.Conv2d(config.pixel_width, 3, kernel_size=1, bias=False),
            )

    def embed_positions(self, features: Tensor) -> Tensor:
        """``(N, C, h, w)`` of the source → ``(N, D, rows/stride, columns/stride)``."""
        if self.source.pool != (1, 1):
            features = F.avg_pool2d(features, self.source.pool)
        embedded: Tensor = self.local(features)
        return embedded


class Embedded(NamedTuple):
    """What the heads say of N slices.

    Attributes:
        positions: ``(N, D, h, w)``; None where positions are not matched.
        slices: ``(N, W)``.
        places: ``(N, 3, rows, columns)``, where every pixel lies, up to a shift that all slices
            of a scan share, in units of what a slice shows; None where pixels are not placed.
    """

    positions: Tensor | None
    slices: Tensor
    places: Tensor | None = None


def embed(
    network: Network, slices: Tensor, positions: bool = True, pixels: bool = False
) -> Embedded:
    """Embeddings of slices ``(N, C, rows, columns)``.

    Args:
        network: Of this method.
        slices: Images.
        positions: Whether those of positions are asked for, too.
        pixels: Whether every pixel is placed, which needs the decoder.
    """
    heads: SalHeads = network.heads
    stage = heads.source.stage
    needed = pixels or (positions and stage is None)

    def forward(some: Tensor) -> Embedded:
        features = network.backbone.encode(some)
        decoded = network.backbone.decode(features) if needed else None
        matched: Tensor | None = None
        if positions:
            dense = decoded if stage is None else features[stage]
            matched = heads.embed_positions(cast(Tensor, dense))
        places = None
        if pixels and decoded is not None and heads.pixel is not None:
            with torch.autocast(decoded.device.type, enabled=False):  # bf16 rounds places
                places = heads.pixel(at_least_single(decoded))
        return Embedded(matched, heads.slice(pooled(features)), places)

    return few_at_a_time(forward, network.backbone, slices)
