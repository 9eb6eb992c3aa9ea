"""What the settings of several methods have in common: weights, presets, sizes of views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from situs.config import Config, unknown_name
from situs.views.intensity import IntensityConfig

Size3 = tuple[PositiveInt, PositiveInt, PositiveInt]
"""Voxels along the three axes of a scan."""

Size = tuple[PositiveInt, PositiveInt] | Size3
"""Pixels of a slice, or voxels of a sub-volume."""


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"must be (smallest, largest), got {value}")
    return value


Range = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_rising)]
"""The smallest and the largest of a factor that is drawn."""


class Preset(NamedTuple):
    """What one name stands for.

    Attributes:
        options: Of the method.
        run: Of the pretraining around it, ``{"teacher": {"momentum": 0.9}}``; taken where the
            method is trained alone.
    """

    options: Mapping[str, Any]
    run: Mapping[str, Any] = {}


def under(preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """``given``, and the preset's values where it says nothing, at every depth."""
    filled = {**preset, **given}
    for key, value in preset.items():
        if isinstance(value, Mapping) and isinstance(given.get(key), Mapping):
            filled[key] = under(value, given[key])
    return filled


def named(name: str, presets: Mapping[str, Preset]) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: If there is none; lists those that there are.
    """
    if name not in presets:
        if not presets:
            raise ValueError("this method has no presets; leave 'preset' out")
        raise ValueError(str(unknown_name("preset", name, [*presets])))
    return presets[name]


class MethodConfig(Config):
    """Base of every method's configuration.

    Attributes:
        default_weights: Weight of each loss term where the configuration names none; it also
            says which terms there are.
        presets: Settings under a name, with those of the run around them.
        preset: Name of settings to start from; what is given beside it comes first.
        weights: Weight of each loss term; a term of weight 0 is not computed.
    """

    default_weights: ClassVar[Mapping[str, float]] = {}
    presets: ClassVar[Mapping[str, Preset]] = {}
    preset: str = ""
    weights: dict[str, NonNegativeFloat] = Field(default_factory=dict, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _start_from_preset(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or not (name := given.get("preset")):
            return given
        return under(named(str(name), cls.presets).options, given)

    @field_validator("weights", mode="before")
    @classmethod
    def _fill_weights(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or not cls.default_weights:
            return given
        for name in given:
            if name not in cls.default_weights:
                raise ValueError(str(unknown_name("loss term", str(name), [*cls.default_weights])))
        filled = {**cls.default_weights, **given}
        if not any(filled.values()):
            raise ValueError("weights are all 0: nothing would be learned")
        return filled

    @classmethod
    def seeing(cls, size: tuple[int, ...]) -> dict[str, Any]:
        """Options with which the network is shown views of ``size``.

        Empty for a method that cannot choose: what it asks depends on the size of its views.
        """
        del size
        return {}

    def weight(self, term: str) -> float:
        """The weight of one term."""
        return self.weights.get(term, 1.0)


class TwoViewConfig(MethodConfig):
    """Of methods that are shown two views of about one place of a scan, or of one of its slices.

    Attributes:
        axes: Array axes that slices lie across, 0 sagittal, 1 coronal, 2 axial; None takes the
            stack's own where there is one, and any axis otherwise.
        max_shift: Largest distance between the two views' centres along each axis, relative to
            their size; below 1 they overlap.
        flip: Probability of mirroring along each axis. Off by default: left and right, front
            and back are anatomy.
        intensity: Intensity changes of each view.
    """

    axes: tuple[Literal[0, 1, 2], ...] | None = None
    max_shift: float = Field(0.4, ge=0)
    flip: float = Field(0.0, ge=0, le=1)
    intensity: IntensityConfig = Field(default_factory=IntensityConfig)
