"""Configuration of the method ``voco``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from situs.methods.config import MethodConfig, Preset, Size3
from situs.views.intensity import IntensityConfig


class SeldomIntensityConfig(IntensityConfig):
    """Changes of intensity that are drawn less often.

    A class of its own, so that a setting given alone leaves the others at these defaults.
    """

    probability: float = Field(0.3, ge=0, le=1)


# The authors' code of 2024 (github.com/Luffy03/VoCo, voco_train.py and models/voco_head.py) with
# its default arguments. Not called 'reference': its crops are flipped and turned with probability
# 0.2 and shifted in intensity with 0.1, where ours change in intensity alone; its scans are first
# resized to 384×384×96, so that the bases tile them whole; its AdamW is of the AMSGrad kind; and
# our teacher's momentum rises to 0.9 during the first 80 steps.
RELEASED = Preset(
    {
        "grid": (4, 4, 1),
        "crop_size": (96, 96, 96),
        "view_size": (64, 64, 64),
        "crops": 2,
        "form": "released",
        "teacher": True,
        "hidden": 2048,
        "width": 2048,
        "head_layers": 3,
        "head_norm": "batch",
    },
    {
        "teacher": {"momentum": 0.9},
        "optimiser": {"lr": 1e-4, "weight_decay": 0.01, "warmup_steps": 5000},
        "batch_size": 2,
    },
)


class VocoConfig(MethodConfig):
    """How a region is cut into bases, and what is contrasted with them.

    Attributes:
        grid: Base crops along each axis; they tile the region without overlap. The paper uses
            4×4×1 of 96³.
        crop_size: Voxels of a crop along each axis, in the scan.
        view_size: Voxels the network sees of it; ``None`` takes ``crop_size`` (the paper reads
            96³ and shows 64³).
        crops: Random crops a region.
        form: ``"paper"`` as printed, ``"released"`` as in the authors' code; see
            :func:`~situs.methods.voco.losses.prediction`.
        teacher: Contrast with bases of an averaged network, in both directions, as the authors'
            code does, instead of stopping the gradient at the bases.
        weights: Of the terms; the paper sets both to 1 (λ = 1).
        intensity: Intensity changes of each crop on its own.
        hidden: Width of the projection head.
        head_layers: Its linear layers.
        head_norm: Its normalisation: ``"layer"``, or ``"batch"`` as in the authors' code.
        width: Dimensions in which crops are compared.
    """

    presets: ClassVar[Mapping[str, Preset]] = {"released": RELEASED}
    default_weights: ClassVar[dict[str, float]] = {"prediction": 1.0, "regularization": 1.0}
    grid: Size3 = (2, 2, 2)
    crop_size: Size3 = (16, 16, 16)
    view_size: Size3 | None = None
    crops: int = Field(4, ge=1)
    form: Literal["paper", "released"] = "paper"
    teacher: bool = False
    intensity: SeldomIntensityConfig = Field(default_factory=SeldomIntensityConfig)
    hidden: PositiveInt = 256
    head_layers: int = Field(2, ge=1)
    head_norm: Literal["layer", "batch"] = "layer"
    width: PositiveInt = 128

    @model_validator(mode="after")
    def _several_bases(self) -> Self:
        if np.prod(self.grid) < 2:
            raise ValueError(f"grid must have at least 2 base crops, got {self.grid}")
        return self

    @property
    def seen_size(self) -> tuple[int, int, int]:
        """Voxels of what the network sees."""
        return self.view_size or self.crop_size
