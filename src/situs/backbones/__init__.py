"""Backbones: one protocol, thin adapters, one registry."""

from __future__ import annotations

from situs.backbones.adapted import AdaptedBackbone
from situs.backbones.base import Backbone, BackboneConfig
from situs.backbones.presets import PRESETS
from situs.registry import Registry

__all__ = [
    "AdaptedBackbone",
    "Backbone",
    "BackboneConfig",
    "available",
    "backbone_class",
    "build",
]

# name → where its class lives; imported only when asked for.
_REGISTRY = Registry(
    "backbone",
    "situs.backbones",
    {
        "cnn": "situs.backbones.cnn:Cnn",
        "nnunet": "situs.backbones.nnunet:Nnunet",
        "primus": "situs.backbones.primus:Primus",
        "resnet_unet": "situs.backbones.resnet_unet:ResnetUnet",
        "swin_unetr": "situs.backbones.swin_unetr:SwinUnetr",
        "vit": "situs.backbones.vit:Vit",
    },
    Backbone,
    short=PRESETS,
)


def available() -> list[str]:
    """Names that :func:`build` accepts."""
    return sorted(_REGISTRY.names())


def backbone_class(name: str, *, trusted: bool = True) -> type[Backbone]:
    """The class of a backbone.

    Args:
        name: One of :func:`available`, or ``package.module:Class``.
        trusted: See :meth:`situs.registry.Registry.load`; False for what a card says.

    Raises:
        ConfigError: For an unknown name (lists the known ones), or for a class that is no
            :class:`Backbone`.
    """
    found: type[Backbone] = _REGISTRY.load(name, trusted=trusted)
    return found


def build(config: BackboneConfig, *, trusted: bool = True) -> Backbone:
    """The backbone that ``config`` names, with random weights.

    Args:
        config: Name and size.
        trusted: As in :func:`backbone_class`.

    Raises:
        ConfigError: For an unknown name or options that the adapter does not take.
    """
    return backbone_class(config.name, trusted=trusted).from_config(config)
