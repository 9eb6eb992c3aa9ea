"""Methods: one folder each, and one registry line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from situs.config import validate
from situs.methods.base import (
    Batch,
    Controls,
    Losses,
    Method,
    Nets,
    Network,
    Samples,
    Scores,
    StepResult,
    StepScore,
)
from situs.methods.config import MethodConfig
from situs.methods.measured import Measured
from situs.registry import Registry

__all__ = [
    "Batch",
    "Controls",
    "Losses",
    "Measured",
    "Method",
    "MethodConfig",
    "Nets",
    "Network",
    "Samples",
    "Scores",
    "StepResult",
    "StepScore",
    "available",
    "build",
    "method_class",
]

# name → where its Method class lives; imported only when asked for.
_REGISTRY = Registry(
    "method",
    "situs.methods",
    {
        "spatial": "situs.methods.spatial:Spatial",
        "s2dc": "situs.methods.s2dc:S2dc",
        "mae": "situs.methods.mae:Mae",
        "simclr": "situs.methods.simclr:SimClr",
        "dino": "situs.methods.dino:Dino",
        "voco": "situs.methods.voco:Voco",
        "sal": "situs.methods.sal:Sal",
        "planes": "situs.methods.planes:Planes",
    },
    Method,
)


def available() -> list[str]:
    """Names that :func:`build` accepts."""
    return _REGISTRY.names()


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Args:
        name: One of :func:`available`, or ``package.module:Class``.

    Raises:
        ConfigError: For an unknown name (lists the known ones), or for a class that is no
            :class:`Method`.
    """
    found: type[Method] = _REGISTRY.load(name)
    return found


def build(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """The method ``name`` with ``options`` validated against its configuration."""
    cls = method_class(name)
    return cls(validate(cls.Config, options or {}))
