"""Configuration of the method ``simclr``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from situs.methods.base import MethodConfig
from situs.views.intensity import IntensityConfig

Size = tuple[PositiveInt, PositiveInt] | tuple[PositiveInt, PositiveInt, PositiveInt]


class SimClrConfig(MethodConfig):
    """How two views of a scan differ, and how they are compared.

    Attributes:
        view_size: Voxels of a view along each axis, as the network sees it; two numbers for
            slices, which lie across the stack's axis and train a network of two dimensions.
        axes: Array axes that slices lie across, 0 sagittal, 1 coronal, 2 axial; None takes the
            stack's own where there is one, and any axis otherwise.
        zoom: Range of the length of scan under a view, relative to ``view_size``; drawn
            log-uniformly for each view, the same along all axes.
        max_shift: Largest distance between the two views' centres along each axis, relative to
            ``view_size``; below 1 the views overlap.
        flip: Probability of mirroring along each axis. Off by default: left and right, front
            and back are anatomy.
        intensity: Intensity changes of each view.
        temperature: τ of NT-Xent.
        hidden: Width of the projection head.
        width: Dimensions in which views are compared.
    """

    default_weights: ClassVar[dict[str, float]] = {"nt_xent": 1.0}
    view_size: Size = (32, 32, 32)
    axes: tuple[Literal[0, 1, 2], ...] | None = None
    zoom: tuple[float, float] = (0.7, 1.2)
    max_shift: float = Field(0.4, ge=0)
    flip: float = Field(0.0, ge=0, le=1)
    intensity: IntensityConfig = Field(default_factory=IntensityConfig)
    temperature: float = Field(0.1, gt=0)
    hidden: PositiveInt = 256
    width: PositiveInt = 128

    @classmethod
    def seeing(cls, size: tuple[int, ...]) -> dict[str, Any]:
        """Views of that size."""
        return {"view_size": size}

    @model_validator(mode="after")
    def _zoom_is_a_range(self) -> Self:
        low, high = self.zoom
        if not 0 < low <= high:
            raise ValueError(f"zoom must be (low, high) with 0 < low ≤ high, got {self.zoom}")
        return self
