"""Backbones: one protocol, thin adapters, one registry."""

from __future__ import annotations

from collections.abc import Callable

from situs.backbones.base import Backbone, BackboneConfig
from situs.config import unknown_name

__all__ = ["Backbone", "BackboneConfig", "available", "build"]


def _cnn(config: BackboneConfig) -> Backbone:
    from situs.backbones.cnn import Cnn  # noqa: PLC0415

    return Cnn.from_config(config)


# Adapters import their library only when they are asked for.
_REGISTRY: dict[str, Callable[[BackboneConfig], Backbone]] = {
    "cnn": _cnn,
}


def available() -> list[str]:
    """Names that :func:`build` accepts."""
    return sorted(_REGISTRY)


def build(config: BackboneConfig) -> Backbone:
    """The backbone that ``config`` names.

    Raises:
        ConfigError: For an unknown name or options that the adapter does not take.
    """
    if config.name not in _REGISTRY:
        raise unknown_name("backbone", config.name, available())
    return _REGISTRY[config.name](config)
