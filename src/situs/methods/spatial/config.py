"""Configuration of the method ``spatial``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from situs.methods.config import MethodConfig, Preset, Size3
from situs.views.intensity import IntensityConfig

_LEAST_TOKEN = 4  # voxels


class SpatialConfig(MethodConfig):
    """What ``spatial`` looks at and how its terms are weighted.

    Attributes:
        views: Sub-volumes a scan, V.
        view_size: Voxels of a view along each axis.
        chunk_size: Voxels of a chunk along each axis.
        length_mm: Length that gaps are divided by, per axis; ``None`` takes the spread of gaps
            that the scans at hand give (standard deviation of a uniform draw).
        head: ``"difference"`` predicts positions whose differences are the vectors;
            ``"pairwise"`` predicts each vector from both views jointly.
        symmetric: Let every view be the main view in every step (costs V student passes)
            instead of drawing one anew each step.
        vector_from: Features the view vector is read from: ``"dense"``, the decoder's map, as in
            the paper, or ``"coarse"``, the encoder's last one. With skip connections at hand the
            decoder can place a view from fine features alone, and the coarse ones that
            transfer builds on learn little.
        gap_diagonal: Average ``gap_axis`` over the zero gaps of views to themselves too, as the
            authors' code does: V / (V − 1) times less.
        chunk_pairs: Compare the chunks of the main view with those of each ``"other"`` one, or
            those of ``"all"`` pairs, as the authors' code does; pairs without the main view train
            the student's head alone.
        chunk_head: Whose head embeds the chunks of the other views: the ``"teacher"``'s, or the
            ``"student"``'s as in the authors' code.
        width: Channels of the view vector.
        chunk_width: Channels of a chunk embedding.
        voxel_width: Channels of the head of ``voxel``.
        intensity: Intensity changes applied to each view on its own.
        weights: Weight of each loss term; a term of weight 0 is not computed. ``cycle`` and
            ``antisymmetry`` constrain only the pairwise head; the difference head fulfils both
            by construction. ``voxel`` is ours and off unless it is given a weight.
    """

    # What is known of the authors' code and can be had here. Not called 'reference': its chunks go
    # through four convolutions a cell, its view vectors are means, and its targets are not
    # normalised (docs/methods/spatial.md).
    presets: ClassVar[Mapping[str, Preset]] = {
        "released": Preset({"gap_diagonal": True, "chunk_pairs": "all", "chunk_head": "student"})
    }
    default_weights: ClassVar[dict[str, float]] = {
        "gap_axis": 1.0,
        "gap_norm": 1.0,
        "chunk_adjacent": 0.1,
        "chunk_distant": 0.1,
        "vector": 1.0,
        "route": 0.5,
        "cycle": 0.1,
        "antisymmetry": 0.1,
        "voxel": 0.0,
    }

    views: int = Field(3, ge=2, le=6)
    view_size: Size3 = (24, 24, 24)
    chunk_size: Size3 = (8, 8, 8)
    length_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    head: Literal["difference", "pairwise"] = "difference"
    symmetric: bool = False
    vector_from: Literal["dense", "coarse"] = "dense"
    gap_diagonal: bool = False
    chunk_pairs: Literal["other", "all"] = "other"
    chunk_head: Literal["teacher", "student"] = "teacher"
    width: PositiveInt = 128
    chunk_width: PositiveInt = 32
    voxel_width: PositiveInt = 64
    intensity: IntensityConfig = Field(default_factory=IntensityConfig)

    @property
    def voxels(self) -> bool:
        """Whether ``voxel`` is trained, and so has a head."""
        return self.weight("voxel") > 0

    @model_validator(mode="after")
    def _pairs_have_heads(self) -> Self:
        if self.chunk_pairs == "all" and self.chunk_head == "teacher":
            raise ValueError(
                "chunk_pairs 'all' needs chunk_head 'student': nothing else of the "
                "pairs without the main view is trained"
            )
        return self

    @model_validator(mode="after")
    def _chunks_fit(self) -> Self:
        if any(c > v for c, v in zip(self.chunk_size, self.view_size, strict=True)):
            raise ValueError(
                f"chunk_size {self.chunk_size} must not exceed view_size {self.view_size}"
            )
        if self.voxels and min(self.view_size) < _LEAST_TOKEN:
            raise ValueError(
                f"view_size {self.view_size} must have at least {_LEAST_TOKEN} voxels along each "
                "axis for the term 'voxel'; enlarge it, or leave out weights.voxel"
            )
        return self
