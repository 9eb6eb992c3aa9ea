"""Samplers and sources shared by several methods."""

from situs.views.array_source import ArraySource

__all__ = ["ArraySource"]
