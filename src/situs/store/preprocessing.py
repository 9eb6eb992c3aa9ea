"""What is done to every scan before a network sees it, as one strict configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from situs.config import Config

Millimetres = Annotated[float, Field(gt=0)]
Spacing = tuple[Millimetres, Millimetres, Millimetres]
Compression = Literal["lz4", "zstd", "none"]


class Preprocessing(Config):
    """What scans go through; the same for pretraining, transfer and prediction.

    Attributes:
        orientation: Axes are permuted and flipped to run closest to R, A, S; voxels are never
            rotated.
        spacing: ``"median"`` of the collection, ``"native"`` (each scan keeps its own), or mm
            along R, A, S; one number is that of all three.
        crop: Whether empty borders (air) are cropped.
        margin_mm: What is kept around the foreground.
        ct_window: HU range that maps linearly to ``ct_range``; everything else is clipped.
        ct_range: What the ends of the window become; weights of others ask for 0 … 1.
        percentiles: Foreground percentiles that other scans are clipped to before mean 0 and
            standard deviation 1.
        interpolation: For images; labels are always interpolated linearly class by class.
        dtype: How the store keeps voxels.
        compression: Of the store, without loss: ``"lz4"`` is read fast, ``"zstd"`` takes less
            room (files of stores made before this could be chosen), ``"none"`` is read as fast as
            a mapped array.
    """

    orientation: Literal["RAS"] = "RAS"
    spacing: Literal["median", "native"] | Spacing = "median"
    crop: bool = True
    margin_mm: Annotated[float, Field(ge=0)] = 4.0
    ct_window: tuple[float, float] = (-1000.0, 1000.0)
    ct_range: tuple[float, float] = (-1.0, 1.0)
    percentiles: tuple[float, float] = (0.5, 99.5)
    interpolation: Literal["linear", "cubic"] = "linear"
    dtype: Literal["float16", "float32"] = "float16"
    compression: Compression = "lz4"

    @field_validator("spacing", mode="before")
    @classmethod
    def _alike_along_all(cls, spacing: Any) -> Any:
        alike = isinstance(spacing, int | float) and not isinstance(spacing, bool)
        known = spacing in ("median", "native") if isinstance(spacing, str) else False
        three = isinstance(spacing, Sequence) and not isinstance(spacing, str) and len(spacing) == 3
        if not (alike or known or three):
            raise ValueError("must be median, native, or mm: one number or three, as [1,1,2]")
        return (spacing,) * 3 if alike else spacing

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        if not self.ct_window[0] < self.ct_window[1]:
            raise ValueError("ct_window must be (low, high) with low < high")
        if not self.ct_range[0] < self.ct_range[1]:
            raise ValueError("ct_range must be (low, high) with low < high")
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError("percentiles must be (low, high) with 0 <= low < high <= 100")
        return self

    def of_voxels(self) -> dict[str, Any]:
        """What decides a scan's voxels, JSON-able: all but how a store compresses them."""
        return self.model_dump(mode="json", exclude={"compression"})

    def resolved(self, spacing_mm: Spacing | None) -> Preprocessing:
        """The same preprocessing with ``"median"`` replaced by what the collection's median is."""
        if self.spacing != "median" or spacing_mm is None:
            return self
        return self.model_copy(update={"spacing": spacing_mm})
