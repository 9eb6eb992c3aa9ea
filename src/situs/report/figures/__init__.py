"""Figures: one module a panel kind; :func:`draw` knows them all and no method."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from situs.observation import Panel
from situs.report.svg import Tile

__all__ = ["Tile", "draw"]

# kind → module of this package with ``tiles(panel) -> list[Tile]``
_KINDS = (
    "matrix",
    "scatter",
    "curve",
    "boxes",
    "arrows",
    "matches",
    "lines",
    "overlay",
    "images",
)


def draw(panel: Panel) -> list[Tile]:
    """The tiles of a panel: each is one SVG that stands by itself and wraps on a phone.

    Raises:
        ValueError: For a panel kind without a module here.
    """
    if panel.kind not in _KINDS:
        raise ValueError(f"no figure for panels of kind '{panel.kind}'; known: {', '.join(_KINDS)}")
    tiles: Callable[[Any], list[Tile]] = import_module(f"{__name__}.{panel.kind}").tiles
    return tiles(panel)
