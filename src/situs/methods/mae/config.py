"""Configuration of the method ``mae``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from situs.errors import ConfigError
from situs.methods.config import MethodConfig, Size


class MaeConfig(MethodConfig):
    """What is hidden and how the rest is read.

    Attributes:
        view_size: Voxels of the sub-volume along each axis; two numbers for slices, which lie
            across the stack's axis and train a network of two dimensions.
        views: Sub-volumes of a scan in each sample, cut and hidden each by itself.
        axes: Array axes that slices lie across, 0 sagittal, 1 coronal, 2 axial; None takes the
            stack's own where there is one, and any axis otherwise.
        block_size: Voxels of a hidden block; must divide ``view_size``, and for sparse masking
            be a multiple of the backbone's largest stride. ``None`` takes the smallest such
            multiple of at least 8 voxels.
        mask_ratio: Share of blocks that are hidden. SparK uses 0.6 for CNNs, MAE 0.75 for ViTs.
        masking: ``"sparse"`` keeps hidden places empty through a convolutional encoder and
            fills its features with learned tokens before decoding; ``"input"`` puts a learned
            token in the hidden voxels and lets the encoder see it, for encoders with attention
            and convolutions; ``"tokens"`` gives a plain transformer only what is visible;
            ``"auto"`` looks at the encoder.
        normalise: Whether each block's target has zero mean and unit deviation.
    """

    default_weights: ClassVar[dict[str, float]] = {"reconstruction": 1.0}
    view_size: Size = (32, 32, 32)
    views: PositiveInt = 1
    axes: tuple[Literal[0, 1, 2], ...] | None = None
    block_size: Size | None = None
    mask_ratio: float = Field(0.6, gt=0, lt=1)
    masking: Literal["auto", "sparse", "input", "tokens"] = "auto"
    normalise: bool = True

    @classmethod
    def seeing(cls, size: tuple[int, ...]) -> dict[str, Any]:
        """Views of that size."""
        return {"view_size": size}

    @model_validator(mode="after")
    def _blocks_tile(self) -> Self:
        if self.block_size is None:
            return self
        if len(self.block_size) != len(self.view_size):
            raise ValueError(
                f"block_size {self.block_size} must have as many numbers as view_size "
                f"{self.view_size}"
            )
        pairs = list(zip(self.view_size, self.block_size, strict=True))
        if any(v % b for v, b in pairs):
            usable = tuple(max(1, round(v / b)) * b for v, b in pairs)
            raise ValueError(
                f"view_size {self.view_size} must be a multiple of block_size "
                f"{self.block_size}, for instance {usable}"
            )
        if all(v == b for v, b in pairs):
            raise ValueError(
                f"block_size {self.block_size} must be smaller than view_size {self.view_size}, "
                "or there is nothing to see beside what is hidden; take for instance view_size "
                f"{tuple(2 * b for b in self.block_size)}"
            )
        return self

    @property
    def blocks(self) -> Size:
        """``block_size`` once it is known.

        Raises:
            ConfigError: If it is left to a backbone that was not named yet.
        """
        if self.block_size is None:
            raise ConfigError(
                "block_size is left to the backbone: use method.resolve_for_backbone(backbone), "
                "or give it"
            )
        return self.block_size
