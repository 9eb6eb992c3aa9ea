"""Settings of a method under one name, ``options.preset``, such as those of its authors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from situs.config import unknown_name


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
