"""nnU-Net's U-Nets (residual encoder: Isensee et al., MICCAI 2024), from its own package.

Parts keep the package's names: ``encoder.*`` and ``decoder.*`` are what nnU-Net loads, once
kernels are turned to its axis order (``situs.weights.axes``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.backbones.options import PerStep, Positive, cumulative_strides, per_step
from situs.config import Config
from situs.errors import ConfigError, require


class NnunetOptions(Config):
    """Options of the ``nnunet`` backbone; the defaults are those of nnU-Net's ResEnc L.

    Axes are those of situs, (X, Y, Z) or those of a slice; nnU-Net's own plans list them
    backwards.

    Attributes:
        encoder: ``residual`` (nnU-Net's ResEnc presets) or ``plain`` (its default plans).
        channels: Channels of each stage, fine to coarse.
        blocks: Residual blocks, or plain convolutions, of each stage.
        strides: Step from each stage to the next: one for all, or one a step, each a number or
            one an axis.
        kernels: Kernel sizes, likewise one a stage; ``[3, 3, 1]`` within thick axial
            slices.
        decoder_convs: Convolutions of each decoder stage.
    """

    encoder: Literal["residual", "plain"] = "residual"
    channels: list[Positive] = Field(default=[32, 64, 128, 256, 320, 320], min_length=2)
    blocks: list[Positive] = Field(default=[1, 3, 4, 6, 6, 6], min_length=2)
    strides: PerStep = Field(default=[2])
    kernels: PerStep = Field(default=[3])
    decoder_convs: Positive = 1


class _Decoder(nn.Module):
    """The package's decoder without its copy of the encoder and its output layers."""

    def __init__(self, stages: nn.ModuleList, transpconvs: nn.ModuleList) -> None:
        super().__init__()
        self.stages = stages
        self.transpconvs = transpconvs

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        *skips, x = features
        for up, stage, skip in zip(self.transpconvs, self.stages, reversed(skips), strict=True):
            x = stage(torch.cat((up(x), skip), dim=1))
        return x


class Nnunet(Backbone):
    """nnU-Net's U-Net in 2D or 3D, with a residual or a plain encoder.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the input.
        options: Its size.

    Raises:
        SitusError: Where dynamic-network-architectures is not installed.
        ConfigError: For options that do not fit together.
    """

    Options = NnunetOptions

    # Its instance normalisation is not an option.
    min_coarse_voxels = 2

    def __init__(
        self, spatial_dims: int = 3, in_channels: int = 1, options: NnunetOptions | None = None
    ) -> None:
        super().__init__()
        options = options or NnunetOptions()
        stages = len(options.channels)
        if len(options.blocks) != stages:
            raise ConfigError(
                f"blocks must have {stages} entries, one for each of channels, got {options.blocks}"
            )
        steps = per_step(options.strides, stages - 1, spatial_dims, "strides")
        require("dynamic_network_architectures", "nnunet")
        from dynamic_network_architectures.architectures.unet import (  # noqa: PLC0415 - an extra
            PlainConvUNet,
            ResidualEncoderUNet,
        )

        kind, blocks = (
            (ResidualEncoderUNet, "n_blocks_per_stage")
            if options.encoder == "residual"
            else (PlainConvUNet, "n_conv_per_stage")
        )
        network = kind(
            input_channels=in_channels,
            n_stages=stages,
            features_per_stage=options.channels,
            conv_op=(nn.Conv2d, nn.Conv3d)[spatial_dims - 2],
            kernel_sizes=per_step(options.kernels, stages, spatial_dims, "kernels"),
            strides=[(1,) * spatial_dims, *steps],
            num_classes=1,
            n_conv_per_stage_decoder=options.decoder_convs,
            conv_bias=True,
            norm_op=(nn.InstanceNorm2d, nn.InstanceNorm3d)[spatial_dims - 2],
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            **{blocks: options.blocks},
        )
        network.apply(kind.initialize)
        _without_lambdas(network)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.channels = tuple(options.channels)
        self.strides = cumulative_strides(steps, spatial_dims)
        self.decoder_channels = self.channels[0]
        self.encoder = network.encoder
        self.decoder = _Decoder(network.decoder.stages, network.decoder.transpconvs)

    def encoder_blocks(self) -> list[list[nn.Module]]:
        """See :meth:`Backbone.encoder_blocks`."""
        stages = [[stage] for stage in self.encoder.get_submodule("stages").children()]
        stem = getattr(self.encoder, "stem", None)
        return stages if stem is None else [[stem], *stages]


def _without_lambdas(network: nn.Module) -> None:
    """Where a block passes its input on, the package has a lambda, which does not pickle."""
    for module in network.modules():
        if "skip" in module.__dict__:
            module.skip = nn.Identity()
