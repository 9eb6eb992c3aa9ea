"""Samplers and sources shared by several methods."""

from situs.views.source import ArraySource

__all__ = ["ArraySource"]
