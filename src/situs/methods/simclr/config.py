"""Configuration of the method ``simclr``."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from situs.methods.config import Range, Size, TwoViewConfig


class SimClrConfig(TwoViewConfig):
    """How two views of a scan differ, and how they are compared.

    Attributes:
        view_size: Voxels of a view along each axis, as the network sees it; two numbers for
            slices, which lie across the stack's axis and train a network of two dimensions.
        zoom: Range of the length of scan under a view, relative to ``view_size``; drawn
            log-uniformly for each view, the same along all axes.
        temperature: τ of NT-Xent.
        hidden: Width of the projection head.
        width: Dimensions in which views are compared.
    """

    default_weights: ClassVar[dict[str, float]] = {"nt_xent": 1.0}
    view_size: Size = (32, 32, 32)
    zoom: Range = (0.7, 1.2)
    temperature: float = Field(0.1, gt=0)
    hidden: PositiveInt = 256
    width: PositiveInt = 128

    @classmethod
    def seeing(cls, size: tuple[int, ...]) -> dict[str, Any]:
        """Views of that size."""
        return {"view_size": size}
