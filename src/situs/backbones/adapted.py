"""A network of the user's own as a backbone."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from situs.backbones.base import Backbone, BackboneConfig
from situs.backbones.options import min_coarse_voxels, monai_norm
from situs.errors import ConfigError


class AdaptedBackbone(Backbone, ABC):
    """Any module that gives feature maps, with a U-Net decoder on top.

    A subclass says how to make the module; channels and strides are measured by showing it an
    empty image of :attr:`probe_size` voxels along each axis.

    Args:
        network: Maps ``(B, C, *spatial)`` to its feature maps, fine to coarse: a list, a tuple,
            a mapping (in its order) or a single tensor. Each scale must divide the next.
        spatial_dims: 2 or 3.
        in_channels: Channels of the input.

    Raises:
        ConfigError: If the module gives something else.
    """

    probe_size: int = 64

    @staticmethod
    @abstractmethod
    def make(spatial_dims: int, in_channels: int, **options: Any) -> nn.Module:
        """Make the module; ``options`` are those of the configuration."""

    @classmethod
    def from_config(cls, config: BackboneConfig) -> Self:
        """Build from a :class:`BackboneConfig`; unknown options raise ``ConfigError``."""
        try:
            inspect.signature(cls.make).bind(
                config.spatial_dims, config.in_channels, **config.options
            )
        except TypeError as error:
            raise ConfigError(f"options of backbone '{config.name}': {error}") from None
        network = cls.make(config.spatial_dims, config.in_channels, **config.options)
        return cls(network, config.spatial_dims, config.in_channels)

    def __init__(self, network: nn.Module, spatial_dims: int, in_channels: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.channels, self.strides = self._measured(network)
        self.decoder_channels = self.channels[0]
        self.min_coarse_voxels = min_coarse_voxels("instance")
        self.encoder = network
        self.decoder = _Decoder(spatial_dims, self.channels, self.strides)

    def _measured(self, network: nn.Module) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        size = (self.probe_size,) * self.spatial_dims
        training = network.training
        with torch.no_grad():
            found = _maps(network.eval()(torch.zeros(1, self.in_channels, *size)))
        network.train(training)
        for feature in found:
            if feature.ndim != self.spatial_dims + 2 or any(
                n % k for n, k in zip(size, feature.shape[2:], strict=True)
            ):
                raise ConfigError(
                    f"a feature map has shape {tuple(feature.shape)} for an image of {size}; it "
                    f"must be (B, channels, *{self.spatial_dims} axes) with sizes that divide the "
                    "image's"
                )
        strides = tuple(
            tuple(n // k for n, k in zip(size, feature.shape[2:], strict=True)) for feature in found
        )
        for fine, coarse in pairwise(strides):
            if any(c % f for f, c in zip(fine, coarse, strict=True)):
                raise ConfigError(
                    f"feature maps must come fine to coarse, each scale dividing the next; their "
                    f"strides are {list(strides)}"
                )
        return tuple(feature.shape[1] for feature in found), strides

    def encode(self, x: Tensor) -> list[Tensor]:
        """See :meth:`Backbone.encode`."""
        self.check_size(x.shape[2:])
        return _maps(self.encoder(x))


class _Decoder(nn.Module):
    """Transposed convolutions and skip connections; the last step up has no skip."""

    def __init__(
        self,
        spatial_dims: int,
        channels: Sequence[int],
        strides: Sequence[tuple[int, ...]],
    ) -> None:
        super().__init__()
        # All of MONAI comes with it, which takes seconds; other backbones bring their own.
        from monai.networks.blocks.dynunet_block import (  # noqa: PLC0415 - MONAI is slow
            UnetBasicBlock,
        )

        from situs.backbones.skips import SkipDecoder  # noqa: PLC0415 - likewise

        norm = monai_norm("instance", channels)
        steps = [
            tuple(c // f for f, c in zip(fine, coarse, strict=True))
            for fine, coarse in pairwise(strides)
        ]
        self.blocks = SkipDecoder(spatial_dims, channels, steps, norm).blocks
        self.scale = strides[0]
        self.last = UnetBasicBlock(
            spatial_dims, channels[0], channels[0], kernel_size=3, stride=1, norm_name=norm
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        *skips, x = features
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            x = block(x, skip)
        if max(self.scale) > 1:
            x = F.interpolate(x, scale_factor=tuple(map(float, self.scale)), mode="nearest")
        result: Tensor = self.last(x)
        return result


def _maps(found: Any) -> list[Tensor]:
    if isinstance(found, Tensor):
        return [found]
    maps = list(found.values() if isinstance(found, Mapping) else found)
    if not maps or not all(isinstance(feature, Tensor) for feature in maps):
        raise ConfigError(
            f"a network must give tensors of features, got {type(found).__name__} of "
            f"{sorted({type(feature).__name__ for feature in maps})}"
        )
    return maps
