"""Configuration of the method ``dino``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from situs.methods.config import Range, Size, TwoViewConfig


class DinoConfig(TwoViewConfig):
    """What the student and its average are shown, and how their answers are compared.

    ``max_shift`` and the two views of :class:`~situs.methods.config.TwoViewConfig` are those of
    the global views. The centres of local views lie inside the first one.

    Attributes:
        global_size: Voxels of a global view along each axis; two numbers for slices, which lie
            across the stack's axis and train a network of two dimensions.
        local_size: Voxels of a local view along each axis.
        locals: Local views of a sample; the teacher never sees them.
        global_zoom: Range of the length of scan under a global view, relative to its size; drawn
            log-uniformly for each view, the same along all axes.
        local_zoom: Likewise for local views, relative to theirs.
        student_temperature: τ of the student's softmax.
        teacher_temperature: τ of the teacher's softmax, lower so that its answers are sharp.
        centering: What keeps answers from falling onto few prototypes: ``"mean"``, a running mean
            taken off the teacher's, as in DINO, or ``"sinkhorn"``, which balances each batch's, as
            in DINOv2.
        center_momentum: Of the running mean that is taken off the teacher's answers, so that none
            of the prototypes wins always.
        prototypes: Number of answers that student and teacher choose between.
        head_norm: Normalisation in the head: ``"layer"``, or ``"batch"`` at its input, after its
            first layer and before the embedding is normalised, which spreads the features of
            networks whose averages hardly differ.
        hidden: Width of the projection head.
        bottleneck: Dimensions of the embedding before the prototypes.
    """

    default_weights: ClassVar[dict[str, float]] = {"distillation": 1.0, "koleo": 0.1}
    global_size: Size = (32, 32, 32)
    local_size: Size = (16, 16, 16)
    locals: NonNegativeInt = 4
    global_zoom: Range = (0.8, 1.25)
    local_zoom: Range = (0.8, 1.25)
    student_temperature: float = Field(0.1, gt=0)
    teacher_temperature: float = Field(0.04, gt=0)
    centering: Literal["mean", "sinkhorn"] = "mean"
    center_momentum: float = Field(0.9, ge=0, lt=1)
    prototypes: PositiveInt = 1024
    head_norm: Literal["layer", "batch"] = "layer"
    hidden: PositiveInt = 512
    bottleneck: PositiveInt = 128

    @classmethod
    def seeing(cls, size: tuple[int, ...]) -> dict[str, Any]:
        """Views of that size, local ones of half of it."""
        return {"global_size": size, "local_size": tuple(n // 2 for n in size)}

    @model_validator(mode="after")
    def _as_many_axes(self) -> Self:
        if len(self.local_size) != len(self.global_size):
            raise ValueError(
                f"local_size {self.local_size} must have as many numbers as global_size "
                f"{self.global_size}"
            )
        return self
