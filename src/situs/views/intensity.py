"""Random changes of intensity, of views and of patches: drawn first, applied afterwards.

A factor about 0 is MONAI's, one about the mean nnU-Net's (arXiv 1904.08128); the bank that noise is
taken from is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveFloat, model_validator

from situs.config import Config, renamed
from situs.views.framed import Framed

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


def jitter_framed(views: Framed, config: IntensityConfig, rng: np.random.Generator) -> Array:
    """What :func:`jitter` makes of ``views.whole()``, to rounding, in windows as far as possible.

    Returns:
        ``(N, C, rows, columns)``.
    """
    if not views.hidden:
        return jitter(views.parts, config, rng)
    changes = [draw_change(config, rng) for _ in views.parts]
    images = np.empty((*views.parts.shape[:2], *views.shape), dtype=np.float32)
    for number, (change, moments) in enumerate(zip(changes, _framed_moments(views), strict=True)):
        _change_framed(images[number], views, number, change, *moments)
    return images


def _change(view: Array, change: IntensityChange, dims: int) -> None:
    # Read before anything is changed: all refers to the view as it was.
    spread = _spread(view) if change.shift or change.noise else 1.0
    middle = float(view.mean()) if change.contrast != 1 else 0.0
    if change.blur:
        for image in view.reshape(-1, *view.shape[-dims:]):
            blur(image, change.blur)
    curve, flat = _Curve.of(change, view, middle, spread), view.reshape(-1)
    noise = np.float32(change.noise * spread)
    for block, start in enumerate(range(0, flat.size, _BLOCK)):
        part = flat[start : start + _BLOCK]
        curve.bend(part)
        if noise:
            part += noise * _noise_of(change.noise_seed, block, part.size)


def _change_framed(
    image: Array, views: Framed, number: int, change: IntensityChange, middle: float, spread: float
) -> None:
    """Write a view into ``image (C, rows, columns)``, changed."""
    margin = _blur_steps(change.blur)
    rows, columns = views.window(number, margin)
    size = (len(image), rows.stop - rows.start, columns.stop - columns.start)
    inside = math.prod(size)
    # The window and, last, what lies outside of it, so that both take one curve.
    values = np.empty(inside + (len(image) if inside < image.size else 0), dtype=np.float32)
    part, air = values[:inside].reshape(size), values[inside:]
    air[:] = views.air[: air.size]
    if margin:
        part[:] = views.air[:, None, None]
        top, left = views.window(number)
        first, last = rows.start, columns.start
        part[:, top.start - first : top.stop - first, left.start - last : left.stop - last] = (
            views.parts[number]
        )
        for channel in part:
            blur(channel, change.blur)
    else:
        part[:] = views.parts[number]
    _Curve.of(change, values, middle, spread).bend(values)
    if air.size:
        image[:] = air[:, None, None]
    image[:, rows, columns] = part
    if change.noise:
        noise, flat = np.float32(change.noise * spread), image.reshape(-1)
        for block, start in enumerate(range(0, flat.size, _BLOCK)):
            part = flat[start : start + _BLOCK]
            part += noise * _noise_of(change.noise_seed, block, part.size)


def _framed_moments(views: Framed) -> list[tuple[float, float]]:
    """Mean and :func:`_spread` of each view."""
    parts, hidden = views.parts.reshape(len(views.parts), -1), views.hidden
    size = parts.shape[1] + hidden * len(views.air)
    means = (parts.sum(1) + hidden * views.air.sum()) / size
    if size > _SPREAD:  # few pixels of each are looked at
        spreads = [_spread(view) for view in views.whole()]
    else:
        parts = parts - means[:, None]
        outside = hidden * np.square(views.air - means[:, None]).sum(1)
        found = np.sqrt((np.einsum("ij,ij->i", parts, parts) + outside) / size)
        spreads = [spread or 1.0 for spread in found.tolist()]
    return list(zip(means.tolist(), spreads, strict=True))


class _Curve(NamedTuple):
    """What becomes of each value: ``gain · ((x − low) / extent)^gamma + offset``."""

    low: float
    extent: float
    gamma: float
    gain: float
    offset: float

    @classmethod
    def of(cls, change: IntensityChange, values: Array, middle: float, spread: float) -> _Curve:
        """The change of ``values``, which were of this mean and spread before they were blurred."""
        gain = change.gain * change.contrast
        offset = change.shift * spread + (1 - change.contrast) * middle
        if change.gamma == 1:
            return cls(0.0, 1.0, 1.0, gain, offset)
        low = float(values.min())
        extent = float(values.max()) - low or 1.0
        return cls(low, extent, change.gamma, gain * extent, offset + gain * low)

    def bend(self, part: Array) -> None:
        """Change contiguous values in place."""
        if self.gamma != 1:
            part -= np.float32(self.low)
            part *= np.float32(1 / self.extent)
            np.power(part, np.float32(self.gamma), out=part)
        if self.gain != 1:
            part *= np.float32(self.gain)
        if self.offset:
            part += np.float32(self.offset)


def _spread(view: Array) -> float:
    """Standard deviation of a view, of large ones that of a regular sample; 1 of a constant one."""
    flat = view.reshape(-1)
    step = -(-flat.size // _SPREAD)
    some = flat[:: step + 1 - step % 2]  # an odd step, that falls on all columns of a grid
    about_mean = some - some.mean()
    return math.sqrt(about_mean.dot(about_mean) / about_mean.size) or 1.0


def _noise_of(seed: int, block: int, size: int) -> Array:
    """White noise of unit spread for a block of a view's values, not to be written to."""
    at = (seed + block * _HOP) % (_NOISE - _BLOCK)
    return _noise()[at : at + size]


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
    steps = _blur_steps(sigma)
    for _ in range(steps):
        _diffuse(image, np.float32(sigma**2 / (2 * steps)))


def _diffuse_last(image: Array, weight: np.float32) -> None:
    """One step along the last axis of a contiguous image: one long row, cut where rows end."""
    flat, columns = image.reshape(-1), image.shape[-1]
    across = flat[1:] - flat[:-1]
    across[columns - 1 :: columns] = 0
    across *= weight
    flat[:-1] += across
    flat[1:] -= across


def _blur_steps(sigma: float) -> int:
    """Steps of a blur; each moves a value by one voxel at most."""
    return math.ceil(2 * sigma**2)


def _diffuse(image: Array, weight: np.float32) -> None:
    """One step along each axis, of a large volume plane by plane: these stay in a core's cache."""
    if image.ndim < 3 or image.size <= _BLOCK:
        axes = image.ndim
        if image.flags.c_contiguous:
            axes -= 1
            _diffuse_last(image, weight)
        for axis in range(axes):
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
