"""Backbones: one protocol, thin adapters, one registry."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from situs.backbones.base import Backbone, BackboneConfig
from situs.config import unknown_name

__all__ = ["Backbone", "BackboneConfig", "available", "backbone_class", "build"]

# name → where its class lives; imported only when asked for.
_REGISTRY: dict[str, str] = {
    "cnn": "situs.backbones.cnn:Cnn",
    "nnunet": "situs.backbones.nnunet:Nnunet",
    "resnet_unet": "situs.backbones.resnet_unet:ResnetUnet",
    "swin_unetr": "situs.backbones.swin_unetr:SwinUnetr",
}


def available() -> list[str]:
    """Names that :func:`build` accepts."""
    return sorted(_REGISTRY)


def backbone_class(name: str) -> type[Any]:
    """The class of a registered backbone; it has ``from_config``.

    Raises:
        ConfigError: For an unknown name; lists the known ones.
    """
    if name not in _REGISTRY:
        raise unknown_name("backbone", name, available())
    module, _, attribute = _REGISTRY[name].partition(":")
    found: type[Any] = getattr(import_module(module), attribute)
    return found


def build(config: BackboneConfig) -> Backbone:
    """The backbone that ``config`` names.

    Raises:
        ConfigError: For an unknown name or options that the adapter does not take.
    """
    built: Backbone = backbone_class(config.name).from_config(config)
    return built
