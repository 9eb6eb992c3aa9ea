"""Methods: one folder each, and one registry line."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from situs.config import unknown_name, validate
from situs.methods.base import Batch, Method, MethodConfig, Network, StepResult

__all__ = [
    "Batch",
    "Method",
    "MethodConfig",
    "Network",
    "StepResult",
    "available",
    "build",
    "method_class",
]

# name → where its Method class lives; imported only when asked for.
_REGISTRY: dict[str, str] = {
    "spatial": "situs.methods.spatial:Spatial",
    "s2dc": "situs.methods.s2dc:S2dc",
    "mae": "situs.methods.mae:Mae",
    "simclr": "situs.methods.simclr:SimClr",
    "voco": "situs.methods.voco:Voco",
    "sal": "situs.methods.sal:Sal",
    "planes": "situs.methods.planes:Planes",
}


def available() -> list[str]:
    """Names that :func:`build` accepts."""
    return list(_REGISTRY)


def method_class(name: str) -> type[Method]:
    """The class of a registered method.

    Raises:
        ConfigError: For an unknown name; lists the known ones.
    """
    if name not in _REGISTRY:
        raise unknown_name("method", name, available())
    module, _, attribute = _REGISTRY[name].partition(":")
    return getattr(import_module(module), attribute)


def build(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """The method ``name`` with ``options`` validated against its configuration."""
    cls = method_class(name)
    return cls(validate(cls.Config, options or {}))
