"""Primus (Wald et al., arXiv 2503.01835): a transformer with rotary positions, a light decoder."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from situs.backbones.options import Positive
from situs.backbones.tokens import TokenBackbone, TokenOptions
from situs.errors import ConfigError


class PrimusOptions(TokenOptions):
    """Options of the ``primus`` backbone; the defaults are those of Primus-S.

    Attributes:
        width: Numbers a token; 396, 792, 864, 1056 in Primus S, B, M, L.
        depth: Blocks; 12, 12, 16, 24.
        heads: Attention heads; 6, 12, 12, 16.
        patch: Voxels of a token: one number for all axes, or one an axis.
        grid: Tokens along each axis for which learned positions are stored beside the rotary
            ones; for other sizes they are interpolated. An empty list leaves them out.
        layer_scale: What each branch is multiplied by at first.
        drop_path_rate: Stochastic depth; 0.2 in the paper's fine-tuning.
        decoder_channels: Channels of the dense features.
    """

    width: Positive = 396
    depth: Positive = 12
    heads: Positive = 6
    patch: list[Positive] = Field(default=[8], min_length=1, max_length=3)
    grid: list[Positive] = Field(default=[12], max_length=3)
    layer_scale: Annotated[float, Field(gt=0)] = 0.1


class Primus(TokenBackbone):
    """Transformer with rotary positions and a light decoder, in 2D or 3D (Primus).

    One scale of features. Masked methods give it only what is seen.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the input.
        options: Its size.

    Raises:
        ConfigError: For options that do not fit together.
    """

    Options = PrimusOptions

    def __init__(
        self, spatial_dims: int = 3, in_channels: int = 1, options: PrimusOptions | None = None
    ) -> None:
        options = options or PrimusOptions()
        pairs = 2 * spatial_dims
        if options.width % (options.heads * pairs):
            raise ConfigError(
                f"width {options.width} must be a multiple of {pairs} × heads ({options.heads}): "
                f"each head turns pairs of numbers along {spatial_dims} axes"
            )
        shape = options.shape(
            "primus",
            spatial_dims,
            in_channels,
            hidden=options.width * 8 // 3,
            gated=True,
            rotary=True,
            prefix=0,
            epsilon=1e-5,
        )
        super().__init__(shape, options.decoder_channels)
