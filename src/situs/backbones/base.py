"""The one protocol between situs and a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from situs.backbones.presets import expanded
from situs.config import Config, validate
from situs.errors import ConfigError


class Backbone(nn.Module):
    """An encoder with a decoder, seen the same way whatever library it comes from.

    Subclasses fill the attributes, name their :attr:`Options`, and register their parameters under
    :attr:`encoder` and :attr:`decoder`, so that each can be saved and loaded alone.

    Attributes:
        spatial_dims: 2 or 3.
        in_channels: Channels of the input.
        channels: Channels of each scale that :meth:`encode` returns, fine to coarse.
        strides: For each scale, input voxels a feature spans along each axis.
        decoder_channels: Channels of what :meth:`decode` returns.
        Options: What the constructor takes after ``spatial_dims`` and ``in_channels``; a network
            that is built otherwise has its own :meth:`from_config`.
        moved: Prefix → part, of tensors that weights written by earlier versions hold in the
            other part.
        min_coarse_voxels: Voxels that the coarsest scale must have in all; 2 where instance
            normalisation would turn a single one into zero.
    """

    spatial_dims: int
    in_channels: int
    channels: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    decoder_channels: int
    min_coarse_voxels: int = 1
    Options: ClassVar[type[Config] | None] = None
    moved: ClassVar[dict[str, str]] = {}
    encoder: nn.Module
    decoder: nn.Module

    @classmethod
    def from_config(cls, config: BackboneConfig) -> Self:
        """Build the network, with random weights, from its name and size.

        Cards of weights keep the configuration, so that the same one gives the same network.

        Raises:
            ConfigError: For an option that the network does not take.
            NotImplementedError: If the class has neither ``Options`` nor a method of this name.
        """
        if cls.Options is None:
            raise NotImplementedError(f"{cls.__name__} needs Options, or its own from_config")
        options = validate(cls.Options, config.options, "backbone.options")
        return cls(config.spatial_dims, config.in_channels, options)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Multi-scale features, fine to coarse: what :attr:`encoder` gives.

        Args:
            x: ``(B, in_channels, *spatial)``; each spatial size a multiple of :attr:`divisor`.

        Returns:
            One tensor a scale, ``(B, channels[s], *(size / strides[s]))``.

        Raises:
            ConfigError: If the size does not fit.
        """
        self.check_size(x.shape[2:])
        return list(self.encoder(x))

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Features at input resolution, ``(B, decoder_channels, *spatial)``."""
        decoded: Tensor = self.decoder(features)
        return decoded

    def encoder_blocks(self) -> list[list[nn.Module]]:
        """Modules of the encoder by depth, input side first: each block learns at one rate.

        Every parameter of :attr:`encoder` is in exactly one of them. Modules at the same depth,
        such as a stage and the branch beside it, share a block. A network that does not say
        what its blocks are has a single one.
        """
        return [[self.encoder]]

    def forward(self, x: Tensor) -> Tensor:
        """``decode(encode(x))``."""
        return self.decode(self.encode(x))

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each input size must be a multiple of."""
        return self.strides[-1]

    def check_size(self, size: Sequence[int]) -> None:
        """Raise :class:`ConfigError` with the nearest usable size if ``size`` does not fit."""
        cells = [max(1, -(-s // d)) for s, d in zip(size, self.divisor, strict=True)]
        if math.prod(cells) < self.min_coarse_voxels:
            cells = [2] * len(cells)
        usable = tuple(n * d for n, d in zip(cells, self.divisor, strict=True))
        if usable != tuple(size):
            raise ConfigError(
                f"input size {tuple(size)} does not fit this backbone: each axis must be a "
                f"multiple of {self.divisor}, with at least {self.min_coarse_voxels} voxel(s) "
                f"left at the coarsest scale; the next usable size is {usable}"
            )

    def encoder_state(self) -> dict[str, Tensor]:
        """The encoder's parameters and buffers, without prefix."""
        return dict(self.encoder.state_dict())

    def decoder_state(self) -> dict[str, Tensor]:
        """The decoder's parameters and buffers, without prefix."""
        return dict(self.decoder.state_dict())


class BackboneConfig(Config):
    """Which network, and its size.

    Attributes:
        name: One of ``situs backbones``, of which some stand for a network and its size, or
            ``package.module:Class``.
        spatial_dims: 2 or 3.
        in_channels: Channels of the input.
        options: The network's own keyword arguments, for instance ``channels``.
    """

    name: str = "cnn"
    spatial_dims: int = 3
    in_channels: int = 1
    options: dict[str, int | float | str | bool | list[int] | list[list[int]]] = Field(
        default_factory=dict
    )

    @model_validator(mode="before")
    @classmethod
    def _presets(cls, values: Any) -> Any:
        return expanded(values)
