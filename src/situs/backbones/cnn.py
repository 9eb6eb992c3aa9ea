"""A small residual U-Net that pretrains on a CPU, from MONAI's blocks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from monai.networks.blocks.dynunet_block import UnetResBlock
from pydantic import Field
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.backbones.options import (
    Norm,
    PerStep,
    Positive,
    cumulative_strides,
    min_coarse_voxels,
    monai_norm,
    per_step,
)
from situs.backbones.skips import SkipDecoder
from situs.config import Config


class CnnOptions(Config):
    """Options of the ``cnn`` backbone.

    Attributes:
        channels: Channels of each scale, fine to coarse; the first is at input resolution.
        strides: Step from each scale to the next, for all axes (``2``) or per axis
            (``[2, 2, 1]`` for thick slices); one entry for all steps, or one a step.
        norm: ``instance``, ``batch`` or ``group`` normalisation.
    """

    channels: list[Positive] = Field(default=[16, 32, 64, 128], min_length=2)
    strides: PerStep = Field(default=[2])
    norm: Norm = "instance"


class _Encoder(nn.Module):
    """Residual blocks; every scale but the first begins with a strided one."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return features


class Cnn(Backbone):
    """Residual U-Net in 2D or 3D; the default encoder has 0.9 million weights in 3D.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the input.
        options: Its size.
    """

    Options = CnnOptions

    def __init__(
        self, spatial_dims: int = 3, in_channels: int = 1, options: CnnOptions | None = None
    ) -> None:
        super().__init__()
        options = options or CnnOptions()
        steps = per_step(options.strides, len(options.channels) - 1, spatial_dims, "strides")
        norm = monai_norm(options.norm, options.channels)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.channels = tuple(options.channels)
        self.strides = cumulative_strides(steps, spatial_dims)
        self.decoder_channels = self.channels[0]
        self.min_coarse_voxels = min_coarse_voxels(options.norm)
        widths = [in_channels, *self.channels]
        self.encoder = _Encoder(
            [
                UnetResBlock(spatial_dims, a, b, kernel_size=3, stride=stride, norm_name=norm)
                for (a, b), stride in zip(
                    pairwise(widths), [(1,) * spatial_dims, *steps], strict=True
                )
            ]
        )
        self.decoder = SkipDecoder(spatial_dims, self.channels, steps, norm)

    def encoder_blocks(self) -> list[list[nn.Module]]:
        """See :meth:`Backbone.encoder_blocks`."""
        return [[block] for block in self.encoder.get_submodule("blocks").children()]
