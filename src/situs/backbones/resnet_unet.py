"""A ResNet (He et al., CVPR 2016) with a U-Net decoder, from MONAI's FlexibleUNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from monai.networks.nets.flexible_unet import FlexibleUNet
from pydantic import Field
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.backbones.options import Positive
from situs.config import Config

_SCALES = 5


class ResnetUnetOptions(Config):
    """Options of the ``resnet_unet`` backbone.

    Attributes:
        resnet: Depth of the encoder.
        decoder_channels: Channels of each decoder block, coarse to fine.
    """

    resnet: Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101"] = "resnet18"
    decoder_channels: list[Positive] = Field(
        default=[256, 128, 64, 32, 16], min_length=_SCALES, max_length=_SCALES
    )


class ResnetUnet(Backbone):
    """ResNet-U-Net in 2D or 3D with batch normalisation; its finest scale is half the input's.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the input.
        options: Its size.
    """

    Options = ResnetUnetOptions

    def __init__(
        self, spatial_dims: int = 2, in_channels: int = 1, options: ResnetUnetOptions | None = None
    ) -> None:
        super().__init__()
        options = options or ResnetUnetOptions()
        network = FlexibleUNet(
            in_channels=in_channels,
            out_channels=1,
            backbone=options.resnet,
            pretrained=False,
            decoder_channels=tuple(options.decoder_channels),
            spatial_dims=spatial_dims,
            is_pad=False,
        )
        bottleneck = 1 if options.resnet in ("resnet10", "resnet18", "resnet34") else 4
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.channels = (64, *(width * bottleneck for width in (64, 128, 256, 512)))
        self.strides = tuple((2**scale,) * spatial_dims for scale in range(1, _SCALES + 1))
        self.decoder_channels = options.decoder_channels[-1]
        self.encoder = network.encoder
        self.decoder = network.decoder

    def encoder_blocks(self) -> list[list[nn.Module]]:
        """See :meth:`Backbone.encoder_blocks`."""
        part = self.encoder.get_submodule
        return [[part("conv1"), part("bn1")], *([part(f"layer{n}")] for n in range(1, _SCALES))]

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """See :meth:`Backbone.decode`."""
        decoded: Tensor = self.decoder(list(features), _SCALES - 1)
        return decoded
