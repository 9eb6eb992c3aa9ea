"""Configuration of ``planes``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from situs.catalog.studies import load_rules
from situs.methods.slices import SliceConfig
from situs.views.planes_virtual import VirtualConfig

_SIGMA = 6 / 224  # of the view: arXiv 2403.16499
_LEAST_SIGMA_PX = 5.0  # thinner lines cover too few pixels of a small view to be learned; ours


class PlanesConfig(SliceConfig):
    """Everything that decides what ``planes`` looks at and asks for.

    Attributes:
        studies: ``"series"`` looks at the stacks of real studies, ``"virtual"`` cuts studies
            out of volumes; ``"auto"`` takes series where most studies have stacks of two roles or
            more, and where ``rules`` are given and one of them has.
        rules: Role rules of real studies: ``"heart"``, ``"knee"``, ``"orthogonal"``, or a YAML
            file.
        frames: Of real studies, the normal in R, A, S that each role's slices are turned to and
            its stacks followed along; None fits the data, see
            :mod:`situs.methods.planes.frames`.
        virtual: Prescription and poses of virtual studies.
        size: (rows, columns) of a slice's view; None fits the data. The paper takes 224, 224.
        spacing_mm: Of the view's pixels; None fits the data. The paper takes 1.26.
        slices: Slices drawn from a study for each sample.
        sigma_mm: Standard deviation of a line's heat map; None takes the share of the view that
            the paper's 6 of 224 pixels are (7.6 mm at its spacing), and 5 pixels at least.
        sigma_px: The same in pixels of the view, in place of ``sigma_mm``.
        location_pool: How the features of a slice are pooled for its place: ``"max"`` is the
            authors', ``"mean"`` what situs took before.
        min_angle_deg: Lines of planes that meet at a smaller angle are not asked for (ours).
        weights: Of the terms; 1 for those not named, 0 switches one off.
    """

    default_weights: ClassVar[dict[str, float]] = {"line": 1.0, "location": 1.0}
    studies: Literal["auto", "series", "virtual"] = "auto"
    rules: str = "orthogonal"
    frames: dict[str, tuple[float, float, float]] | None = None
    virtual: VirtualConfig = Field(default_factory=VirtualConfig)
    slices: PositiveInt = 6
    sigma_mm: PositiveFloat | None = None
    sigma_px: PositiveFloat | None = None
    location_pool: Literal["max", "mean"] = "max"
    min_angle_deg: float = Field(15.0, ge=0, lt=90)

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_runs(cls, values: Any) -> Any:
        """Configurations that runs saved before ``location_pool`` was there pooled by the mean."""
        if isinstance(values, dict) and {"sigma_px", "slices", "rules", "pose"} <= set(values):
            return {"location_pool": "mean", **values}
        return values

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the planes whose lines are asked for, one a heat map."""
        if self.studies == "series":
            return tuple(load_rules(self.rules).roles)
        return tuple(self.virtual.roles)

    @property
    def learned_roles(self) -> tuple[str, ...]:
        """The roles that a study of the training had; the heat maps of others are untrained."""
        if self.studies == "series" and self.frames is not None:
            return tuple(role for role in self.roles if role in self.frames)
        return self.roles

    @property
    def sigma(self) -> float:
        """Standard deviation of a line's heat map in pixels."""
        if self.sigma_px is not None:
            return self.sigma_px
        if self.sigma_mm is not None:
            return self.sigma_mm / self.grid.spacing_mm
        return max(_LEAST_SIGMA_PX, _SIGMA * max(self.grid.size))
