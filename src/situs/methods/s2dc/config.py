"""Configuration of the method ``s2dc``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from situs.config import Config
from situs.methods.config import MethodConfig, Preset, Range, Size3
from situs.methods.s2dc.presets import PRESETS
from situs.views.intensity import IntensityConfig

Plane = Literal["volume", "sagittal", "coronal", "axial"]

# The axis that a motion within a plane leaves alone; scans are ordered closest to R, A, S.
NORMAL_AXIS: dict[Plane, int] = {"sagittal": 0, "coronal": 1, "axial": 2}


class MotionConfig(Config):
    """The random affine that moves a copy.

    Attributes:
        plane: ``"volume"`` rotates about any axis, scales and shifts in all directions;
            ``"axial"``, ``"coronal"`` and ``"sagittal"`` stay within that plane, as the paper
            does.
        rotation_deg: Largest angle.
        scale: Range of the enlargement, the same along all axes that move.
        translation: Largest shift along each axis, as a share of a crop. At 0.5 every place of
            a crop is as likely to land at any other place of one, so that where a token lies in
            its crop, which padding gives away, tells nothing about its match. The paper takes
            0.25.
    """

    plane: Plane = "volume"
    rotation_deg: float = Field(30.0, ge=0, le=180)
    scale: Range = (0.9, 1.2)
    translation: float = Field(0.5, ge=0)


class CropMotionConfig(MotionConfig):
    """How single crops are moved: less than the region.

    A class of its own, so that a setting given alone leaves the others at these defaults.
    """

    rotation_deg: float = Field(20.0, ge=0, le=180)
    scale: Range = (0.95, 1.05)
    translation: float = Field(0.25, ge=0)


class S2dcConfig(MethodConfig):
    """What ``s2dc`` looks at and how its terms are weighted.

    Attributes:
        grid: Crops along each axis; together they tile the region.
        crop_size: Voxels of a crop along each axis.
        stage: Scale of the encoder whose features are the tokens, as an index into what
            ``encode`` returns; −1 is the coarsest. ``None`` takes the coarsest, as the paper
            does, so that all of the encoder is trained; with ``max_tokens`` the finest that has
            so few. What lies beyond the chosen scale gets no gradient from ``p2p`` and ``p2s``.
        max_tokens: Most tokens in a region, see ``stage``; matching takes memory with its
            square, time with its cube.
        per_slice: Match tokens only within their slice of the grid, as the paper does; needs a
            motion within a plane.
        motion: How the copy of the region is moved.
        copy_of: ``"scan"`` shows what of the scan comes into the moved region; ``"region"``
            moves the region alone, as the authors' code does: its empty corners are air.
        crop_motion: How the augmented copies of single crops are moved, for ``global``.
        global_crops: Crops a region that have an augmented copy.
        intensity: Changes of intensity of the moved region and of the augmented crops.
        weights: Of the terms; a term of weight 0 is not computed.
        temperature: Cosines are divided by it before the transport. The paper has none, that
            is 1; lower is sharper, learns faster, and takes more iterations.
        iterations: Cap on Sinkhorn's iterations.
        tolerance: Change of the potentials at which they stop; ``None`` runs all of them.
        hidden: Width of the two hidden layers of the projection heads.
        features: Dimensions in which tokens and crops are compared.
        norm: ``"batch"`` normalises over tokens and over crops of the batch, as the paper's code
            does; ``"layer"`` each token by itself, for very small batches.
        queue_size: Keys of earlier crops kept as negatives of ``global``; 0 keeps none.
        global_temperature: Of ``global``.
        global_unit: Whether the vectors of ``global`` are L2-normalised. The authors' are not.
        queue_of: Whose keys the queue keeps: those of the ``"augmented"`` copies, or of the same
            crops ``"unmoved"``, as the authors' code does.
        dustbin: A fixed score of the dustbin; ``None`` learns it, from 1.
    """

    presets: ClassVar[Mapping[str, Preset]] = PRESETS
    default_weights: ClassVar[dict[str, float]] = {"p2p": 0.5, "p2s": 0.5, "global": 0.5}
    grid: Size3 = (2, 2, 2)
    crop_size: Size3 = (16, 16, 16)
    stage: int | None = None
    max_tokens: PositiveInt | None = None
    per_slice: bool = False
    motion: MotionConfig = Field(default_factory=MotionConfig)
    copy_of: Literal["scan", "region"] = "scan"
    crop_motion: CropMotionConfig = Field(default_factory=CropMotionConfig)
    global_crops: int = Field(4, ge=1)
    intensity: IntensityConfig = Field(default_factory=IntensityConfig)
    temperature: PositiveFloat = 0.1
    iterations: PositiveInt = 100
    tolerance: PositiveFloat | None = 1e-4
    hidden: PositiveInt = 256
    features: PositiveInt = 128
    norm: Literal["batch", "layer"] = "batch"
    queue_size: int = Field(1024, ge=0)
    global_temperature: PositiveFloat = 0.2
    global_unit: bool = True
    queue_of: Literal["augmented", "unmoved"] = "augmented"
    dustbin: float | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.global_crops > int(np.prod(self.grid)):
            raise ValueError(
                f"global_crops must not exceed the {int(np.prod(self.grid))} crops of grid "
                f"{self.grid}, got {self.global_crops}"
            )
        if self.global_crops < 2 and self.weights["global"] and self.queue_size == 0:
            raise ValueError("one global_crop a region needs a queue to be told from")
        if self.per_slice and self.motion.plane == "volume":
            raise ValueError("per_slice needs motion.plane to be axial, coronal or sagittal")
        return self

    @property
    def region_size(self) -> tuple[int, int, int]:
        """Voxels of the region along each axis."""
        x, y, z = (g * c for g, c in zip(self.grid, self.crop_size, strict=True))
        return (x, y, z)
