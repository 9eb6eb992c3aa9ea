"""A plain vision transformer in the form of DINOv2 (Oquab et al., arXiv 2304.07193).

Blocks and class token are the paper's, and its weights load; registers are Darcet et al.'s (arXiv
2309.16588). Three dimensions, and the decoder of Primus, are ours.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from situs.backbones.options import Positive
from situs.backbones.tokens import TokenBackbone, TokenOptions
from situs.errors import ConfigError


class VitOptions(TokenOptions):
    """Options of the ``vit`` backbone; the defaults are those of ViT-S.

    Attributes:
        width: Numbers a token; 384, 768, 1024 in ViT-S, B, L.
        depth: Blocks; 12, 12, 24.
        heads: Attention heads; 6, 12, 16.
        patch: Voxels of a token: one number for all axes, or one an axis.
        grid: Tokens along each axis for which positions are stored; for other sizes they are
            interpolated.
        mlp_ratio: Width of a block's perceptron, in widths.
        registers: Tokens beside the class token that stand for no place.
        layer_scale: What each branch is multiplied by at first; 1e-5 in DINOv2.
        drop_path_rate: Stochastic depth.
        decoder_channels: Channels of the dense features.
    """

    width: Positive = 384
    depth: Positive = 12
    heads: Positive = 6
    patch: list[Positive] = Field(default=[16], min_length=1, max_length=3)
    grid: list[Positive] = Field(default=[6], min_length=1, max_length=3)
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    registers: Annotated[int, Field(ge=0)] = 0


class Vit(TokenBackbone):
    """Plain vision transformer in 2D or 3D with DINOv2's layout and a light decoder.

    One scale of features; positions are learned. Masked methods give it only what is seen.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the input.
        options: Its size.

    Raises:
        ConfigError: For options that do not fit together.
    """

    Options = VitOptions

    def __init__(
        self, spatial_dims: int = 3, in_channels: int = 1, options: VitOptions | None = None
    ) -> None:
        options = options or VitOptions()
        if options.width % (2 * options.heads):
            raise ConfigError(
                f"width {options.width} must be a multiple of 2 × heads ({options.heads})"
            )
        shape = options.shape(
            "vit",
            spatial_dims,
            in_channels,
            hidden=int(options.width * options.mlp_ratio),
            gated=False,
            rotary=False,
            prefix=1 + options.registers,
            epsilon=1e-6,
        )
        super().__init__(shape, options.decoder_channels)
