"""Random changes of intensity for contrastive views: drawn first, applied afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import ndimage

from situs.config import Config

Array = npt.NDArray[np.float32]


class IntensityConfig(Config):
    """Ranges of the changes; intensities are those of the store, about zero mean, unit spread.

    Attributes:
        scale: Largest relative change of contrast, x ← x · (1 ± scale).
        shift: Largest change of brightness, in standard deviations of the view.
        gamma: Range of the exponent applied between the view's own minimum and maximum.
        noise: Largest standard deviation of added white noise, relative to the view's.
        blur: Largest standard deviation of a Gaussian blur, in voxels.
        probability: Of each single change.
    """

    scale: float = Field(0.25, ge=0, lt=1)
    shift: float = Field(0.25, ge=0)
    gamma: tuple[float, float] = (0.7, 1.5)
    noise: float = Field(0.15, ge=0)
    blur: float = Field(1.0, ge=0)
    probability: float = Field(0.5, ge=0, le=1)


@dataclass(frozen=True)
class IntensityChange:
    """What was drawn; the neutral element is the default."""

    scale: float = 1.0
    shift: float = 0.0
    gamma: float = 1.0
    noise: float = 0.0
    blur: float = 0.0
    noise_seed: int = 0


def draw_change(config: IntensityConfig, rng: np.random.Generator) -> IntensityChange:
    """Draw one change of intensity."""
    use = rng.random(5) < config.probability
    low, high = np.log(config.gamma)
    return IntensityChange(
        scale=float(1 + use[0] * rng.uniform(-config.scale, config.scale)),
        shift=float(use[1] * rng.uniform(-config.shift, config.shift)),
        gamma=float(np.exp(use[2] * rng.uniform(low, high))),
        noise=float(use[3] * rng.uniform(0, config.noise)),
        blur=float(use[4] * rng.uniform(0, config.blur)),
        noise_seed=int(rng.integers(2**63)),
    )


def apply_change(view: Array, change: IntensityChange) -> Array:
    """Apply ``change`` to a view ``(C, *spatial)``; pure.

    Blur comes first and noise last, the order in which a scanner makes them.
    """
    changed = np.array(view, dtype=np.float32)
    # Read before anything is changed: shift and noise are in units of the view as it was.
    spread = np.float32((view.std() or 1.0) if change.shift or change.noise > 0 else 1.0)
    if change.blur > 0:
        sigma = (0.0, *(change.blur,) * (view.ndim - 1))
        ndimage.gaussian_filter(changed, sigma, output=changed, mode="nearest")
    if change.gamma != 1:
        low = changed.min()
        changed -= low
        extent = changed.max() or np.float32(1)
        changed /= extent
        np.power(changed, np.float32(change.gamma), out=changed)
        changed *= extent
        changed += low
    if change.scale != 1:
        changed *= np.float32(change.scale)
    if change.shift:
        changed += np.float32(change.shift) * spread
    if change.noise > 0:
        noise = np.random.default_rng(change.noise_seed)
        changed += (np.float32(change.noise) * spread) * noise.standard_normal(
            view.shape, dtype=np.float32
        )
    return changed


def jitter(view: Array, config: IntensityConfig, rng: np.random.Generator) -> Array:
    """A random change of intensity of one view ``(C, *spatial)``."""
    return apply_change(view, draw_change(config, rng))
