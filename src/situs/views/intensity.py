"""Random changes of intensity, of views and of patches: drawn first, applied afterwards.

A factor about 0 is MONAI's, one about the mean nnU-Net's (arXiv 1904.08128); the bank that noise is
taken from is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveFloat, model_validator

from situs.config import Config, renamed

Array = npt.NDArray[np.float32]

_BLOCK = 2**15  # voxels changed at a time, so that they stay in a core's cache
_NOISE = 2**20  # values of noise that windows are taken from
_SPREAD = 2**15  # voxels that a view's standard deviation is taken from
# From a view's window to its next. Of 32 in a row (a million voxels) none shares more than a
# sixteenth with another; further on, and in two large views, windows meet again, moved.
_HOP = 0x9E3779B97F4A7C15


class IntensityConfig(Config):
    """Ranges of the changes; intensities are those of the store, about zero mean, unit spread.

    Attributes:
        gain: Largest relative change of contrast, x ← x · (1 ± gain).
        shift: Largest change of brightness, in standard deviations of the view.
        gamma: Range of the exponent applied between the view's own minimum and maximum.
        noise: Largest standard deviation of added white noise, relative to the view's.
        blur: Largest standard deviation of a blur close to a Gaussian, in voxels.
        probability: Of each single change.
    """

    gain: float = Field(0.25, ge=0, lt=1)
    shift: float = Field(0.25, ge=0)
    gamma: tuple[PositiveFloat, PositiveFloat] = (0.7, 1.5)
    noise: float = Field(0.15, ge=0)
    blur: float = Field(1.0, ge=0)
    probability: float = Field(0.5, ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _as_called_today(cls, values: Any) -> Any:
        return renamed(values, {"scale": "gain"})


@dataclass(frozen=True)
class IntensityChange:
    """What was drawn; the neutral element is the default.

    Attributes:
        gain: Factor about 0, as in MONAI's ``RandScaleIntensity``: pretraining.
        contrast: Factor about the view's mean, as in nnU-Net: fine-tuning.
        shift: In standard deviations of the view.
        gamma: Exponent between the view's own minimum and maximum.
        noise: Standard deviation, in those of the view.
        blur: Standard deviation in voxels.
        noise_seed: Which noise.
    """

    gain: float = 1.0
    contrast: float = 1.0
    shift: float = 0.0
    gamma: float = 1.0
    noise: float = 0.0
    blur: float = 0.0
    noise_seed: int = 0


def draw_change(config: IntensityConfig, rng: np.random.Generator) -> IntensityChange:
    """Draw one change of intensity."""
    drawn = rng.random(10).tolist()
    use = [value < config.probability for value in drawn[:5]]
    gain, shift, gamma, noise, blur = drawn[5:]
    low, high = map(math.log, config.gamma)
    return IntensityChange(
        gain=1 + use[0] * config.gain * (2 * gain - 1),
        shift=use[1] * config.shift * (2 * shift - 1),
        gamma=math.exp(use[2] * (low + gamma * (high - low))),
        noise=use[3] * config.noise * noise,
        blur=use[4] * config.blur * blur,
        noise_seed=int(rng.integers(2**63)),
    )


def apply_change(view: Array, change: IntensityChange) -> Array:
    """Apply ``change`` to a copy of a view ``(C, *spatial)``.

    Blur comes first and noise last, the order in which a scanner makes them.
    """
    changed = np.array(view, dtype=np.float32, order="C")
    _change(changed, change, view.ndim - 1)
    return changed


def jitter(
    views: Array, config: IntensityConfig, rng: np.random.Generator, dims: int | None = None
) -> Array:
    """Change the intensity of views ``(N, …, *spatial)`` in place, each at random.

    Args:
        views: Of the caller's own, C-contiguous.
        config: Ranges.
        rng: The only source of randomness.
        dims: How many axes are spatial, all but the first two where None; what lies along the
            others is of one view, and changed alike.

    Returns:
        The same views.
    """
    for view in views:
        _change(view, draw_change(config, rng), dims or views.ndim - 2)
    return views


def _change(view: Array, change: IntensityChange, dims: int) -> None:
    # Read before anything is changed: all refers to the view as it was.
    spread = _spread(view) if change.shift or change.noise else 1.0
    middle = float(view.mean()) if change.contrast != 1 else 0.0
    if change.blur:
        for image in view.reshape(-1, *view.shape[-dims:]):
            blur(image, change.blur)
    gain = change.gain * change.contrast
    offset = change.shift * spread + (1 - change.contrast) * middle
    low, extent = 0.0, 1.0
    if change.gamma != 1:
        low = float(view.min())
        extent = float(view.max()) - low or 1.0
        gain, offset = gain * extent, offset + gain * low
    flat, added = view.reshape(-1), np.float32(change.noise * spread)
    for number, start in enumerate(range(0, flat.size, _BLOCK)):
        part = flat[start : start + _BLOCK]
        if change.gamma != 1:
            part -= np.float32(low)
            part *= np.float32(1 / extent)
            np.power(part, np.float32(change.gamma), out=part)
        if gain != 1:
            part *= np.float32(gain)
        if offset:
            part += np.float32(offset)
        if added:
            at = (change.noise_seed + number * _HOP) % (_NOISE - _BLOCK)
            part += added * _noise()[at : at + part.size]


def _spread(view: Array) -> float:
    """Standard deviation of a view, of large ones that of a regular sample; 1 of a constant one."""
    flat = view.reshape(-1)
    step = -(-flat.size // _SPREAD)
    some = flat[:: step + 1 - step % 2]  # an odd step, that falls on all columns of a grid
    about_mean = some - some.mean()
    return math.sqrt(about_mean.dot(about_mean) / about_mean.size) or 1.0


@lru_cache(maxsize=1)
def _noise() -> Array:
    """Values that all views take their noise from: drawing it anew costs ten times as much."""
    return np.random.default_rng(0).standard_normal(_NOISE, dtype=np.float32)


def blur(image: Array, sigma: float) -> None:
    """Blur an image of any dimensions in place, by steps of diffusion.

    A step along an axis is the kernel (w, 1 − 2w, w): of variance 2w, without overshoot up to
    w = 1/4, and nothing lost across the border. As many are taken as the variance asks for,
    so that the kernel's standard deviation is ``sigma`` exactly.

    Args:
        image: Changed in place.
        sigma: Standard deviation along each axis, in voxels.
    """
    steps = math.ceil(2 * sigma**2)
    for _ in range(steps):
        _diffuse(image, np.float32(sigma**2 / (2 * steps)))


def _diffuse(image: Array, weight: np.float32) -> None:
    """One step along each axis, of a large volume plane by plane: these stay in a core's cache."""
    if image.ndim < 3 or image.size <= _BLOCK:
        for axis in range(image.ndim):
            lower = (*(slice(None),) * axis, slice(None, -1))
            upper = (*(slice(None),) * axis, slice(1, None))
            across = (image[upper] - image[lower]) * weight
            image[lower] += across
            image[upper] -= across
        return
    before: Array | None = None
    for index, plane in enumerate(image):
        moved: Array | None = None
        if index + 1 < len(image):
            moved = (image[index + 1] - plane) * weight
            np.add(plane, moved, out=plane)
        if before is not None:
            np.subtract(plane, before, out=plane)
        before = moved
    for plane in image:
        _diffuse(plane, weight)
