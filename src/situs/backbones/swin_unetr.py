"""MONAI's SwinUNETR (Hatamizadeh et al., BrainLes 2021), seen as encoder and decoder.

Parts keep MONAI's names: encoder and decoder together are a state of ``monai.networks.nets
.SwinUNETR`` without its output layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from monai.networks.nets.swin_unetr import SwinUNETR
from pydantic import Field
from torch import Tensor, nn

from situs.backbones.base import Backbone, BackboneConfig
from situs.backbones.options import Norm, Positive, min_coarse_voxels, monai_norm
from situs.config import Config, validate

_STAGES = 4  # fixed in MONAI's class
_ENCODER_STAGES = ("patch_embed", "layers1", "layers2", "layers3", "layers4")
_ENCODER_BRANCHES = ("encoder1", "encoder2", "encoder3", "encoder4", "encoder10")
_DECODER_PARTS = ("decoder5", "decoder4", "decoder3", "decoder2", "decoder1")


class SwinUnetrOptions(Config):
    """Options of the ``swin_unetr`` backbone; the names are MONAI's.

    Attributes:
        feature_size: Channels of the first stage; 48 in the published pretrained models.
        depths: Transformer blocks of each of the four stages.
        num_heads: Attention heads of each stage; each divides its stage's channels.
        window_size: Tokens along each axis that attend to each other.
        norm: Of the convolutional blocks. ``instance`` needs inputs larger than 32 along an
            axis; ``group`` takes 32 too.
        drop_path_rate: Stochastic depth.
        use_checkpoint: Recompute activations in the backward pass to save memory.
    """

    feature_size: Annotated[int, Field(gt=0, multiple_of=12)] = 24
    depths: Annotated[list[Positive], Field(min_length=_STAGES, max_length=_STAGES)] = Field(
        default=[2, 2, 2, 2]
    )
    num_heads: Annotated[list[Positive], Field(min_length=_STAGES, max_length=_STAGES)] = Field(
        default=[3, 6, 12, 24]
    )
    window_size: Positive = 7
    norm: Norm = "instance"
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    use_checkpoint: bool = False


class _Encoder(nn.Module):
    """Swin transformer, and the convolutional blocks on the way to the decoder."""

    def __init__(self, network: SwinUNETR) -> None:
        super().__init__()
        self.swinViT = network.swinViT
        self.encoder1 = network.encoder1
        self.encoder2 = network.encoder2
        self.encoder3 = network.encoder3
        self.encoder4 = network.encoder4
        self.encoder10 = network.encoder10
        self.normalize = network.normalize

    def forward(self, x: Tensor) -> list[Tensor]:
        hidden = self.swinViT(x, self.normalize)
        return [
            self.encoder1(x),
            self.encoder2(hidden[0]),
            self.encoder3(hidden[1]),
            self.encoder4(hidden[2]),
            hidden[3],
            self.encoder10(hidden[4]),
        ]


class _Decoder(nn.Module):
    """Up-sampling blocks, coarse to fine."""

    def __init__(self, network: SwinUNETR) -> None:
        super().__init__()
        for name in _DECODER_PARTS:
            setattr(self, name, getattr(network, name))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        *skips, x = features
        for name, skip in zip(_DECODER_PARTS, reversed(skips), strict=True):
            x = getattr(self, name)(x, skip)
        return x


class SwinUnetr(Backbone):
    """SwinUNETR in 2D or 3D; the coarsest of its six scales spans 32 voxels.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the input.
        options: Its size.
    """

    def __init__(
        self, spatial_dims: int = 3, in_channels: int = 1, options: SwinUnetrOptions | None = None
    ) -> None:
        super().__init__()
        options = options or SwinUnetrOptions()
        size = options.feature_size
        network = SwinUNETR(
            in_channels=in_channels,
            out_channels=1,
            feature_size=size,
            depths=options.depths,
            num_heads=options.num_heads,
            window_size=options.window_size,
            norm_name=monai_norm(options.norm, [size]),
            dropout_path_rate=options.drop_path_rate,
            use_checkpoint=options.use_checkpoint,
            spatial_dims=spatial_dims,
        )
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.channels = (size, size, 2 * size, 4 * size, 8 * size, 16 * size)
        self.strides = tuple((2**scale,) * spatial_dims for scale in range(len(self.channels)))
        self.decoder_channels = size
        self.min_coarse_voxels = min_coarse_voxels(options.norm)
        self.encoder = _Encoder(network)
        self.decoder = _Decoder(network)

    @classmethod
    def from_config(cls, config: BackboneConfig) -> SwinUnetr:
        """Build from a :class:`BackboneConfig`; unknown options raise ``ConfigError``."""
        options = validate(SwinUnetrOptions, config.options)
        return cls(config.spatial_dims, config.in_channels, options)

    def encode(self, x: Tensor) -> list[Tensor]:
        """See :meth:`Backbone.encode`."""
        self.check_size(x.shape[2:])
        features: list[Tensor] = self.encoder(x)
        return features

    def encoder_blocks(self) -> list[list[nn.Module]]:
        """See :meth:`Backbone.encoder_blocks`."""
        part = self.encoder.get_submodule
        return [
            [part(f"swinViT.{stage}"), part(branch)]
            for stage, branch in zip(_ENCODER_STAGES, _ENCODER_BRANCHES, strict=True)
        ]

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """See :meth:`Backbone.decode`."""
        decoded: Tensor = self.decoder(features)
        return decoded
