"""Which voxels are the body, and what becomes of their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from situs.store.preprocessing import Preprocessing

Kind = Literal["hounsfield", "relative"]
Box = tuple[tuple[int, int, int], tuple[int, int, int]]

_BLOCK_MM = 4.0
_AIR_HU = -1000.0
_BODY_HU = -900.0  # above air and its noise, below lung
_SAMPLES = 1_000_000


def intensity_kind(array: npt.NDArray[np.generic], modality: str) -> Kind:
    """Whether a channel's values are Hounsfield units, or mean something only within it.

    A CT counts as Hounsfield only if it has negative values: eight-bit exports and scans
    stored without their rescale intercept have none, and a HU window would ruin them. A scan
    of unknown modality counts if it has the signature of CT, a peak of air at -1000 HU.

    Args:
        array: One channel, ``(X, Y, Z)``.
        modality: Of this channel.
    """
    values = _sample(array)
    low, high = float(values.min()), float(values.max())
    if modality == "CT":
        return "hounsfield" if low < -50 else "relative"
    if modality != "unknown" or low < -3100 or low > -900 or high < 150:
        return "relative"
    air = np.mean(np.abs(values - _AIR_HU) < 60)
    return "hounsfield" if air > 0.02 else "relative"


def threshold(array: npt.NDArray[np.generic], spacing: Sequence[float], kind: Kind) -> float:
    """Value that separates body from background, for one channel ``(X, Y, Z)``.

    For relative intensities: a tenth of the way from the 2nd to the 98th percentile of block
    means, as in brain extraction (Smith, Human Brain Mapping 2002). Block means make it blind
    to noise and to single bright voxels.
    """
    if kind == "hounsfield":
        return _BODY_HU
    low, high = np.percentile(block_means(array, _blocks(spacing)), (2, 98))
    return float(low + 0.1 * (high - low))


def foreground_box(
    array: npt.NDArray[np.generic],
    spacing: Sequence[float],
    kinds: Sequence[Kind],
    margin_mm: float,
) -> Box:
    """Smallest box around the body, and the margin.

    Works on means over blocks of about 4 mm, so that noise in the background does not count
    as body, and ignores components smaller than a hundredth of the largest. A scan that is
    body from border to border keeps its size.

    Args:
        array: ``(C, X, Y, Z)``; a block belongs to the body if it does in any channel.
        spacing: In mm along each axis.
        kinds: Of each channel, from :func:`intensity_kind`.
        margin_mm: Kept on every side, as far as the scan reaches.

    Returns:
        First voxel, and one past the last.
    """
    shape, blocks = array.shape[1:], _blocks(spacing)
    body = np.zeros([-(-n // b) for n, b in zip(shape, blocks, strict=True)], dtype=bool)
    for channel, kind in zip(array, kinds, strict=True):
        body |= block_means(channel, blocks) > threshold(channel, spacing, kind)
    parts, count = ndimage.label(body, structure=np.ones((3, 3, 3)))
    if count == 0:
        return (0, 0, 0), (shape[0], shape[1], shape[2])
    sizes = np.bincount(parts.ravel())[1:]
    keep = np.flatnonzero(sizes >= 0.01 * sizes.max()) + 1
    start, stop = [], []
    for axis, (n, b, s) in enumerate(zip(shape, blocks, spacing, strict=True)):
        others = tuple(a for a in range(3) if a != axis)
        hit = np.flatnonzero(np.isin(parts, keep).any(axis=others))
        margin = int(np.ceil(margin_mm / s))
        start.append(max(0, int(hit[0]) * b - margin))
        stop.append(min(n, (int(hit[-1]) + 1) * b + margin))
    return (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])


@dataclass(frozen=True)
class Scaling:
    """How the values of one channel are clipped and scaled; in double precision, as measured."""

    low: float
    high: float
    centre: float
    spread: float

    def apply(
        self, values: npt.NDArray[np.generic], out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """``(clip(values, low, high) − centre) / spread`` in float32."""
        if out is None:
            out = np.empty(values.shape, dtype=np.float32)
        np.clip(values, self.low, self.high, out=out, casting="unsafe")
        np.subtract(out, self.centre, out=out)
        np.divide(out, self.spread, out=out)
        return out


def scaling(
    channel: npt.NDArray[np.generic],
    spacing: Sequence[float],
    kind: Kind,
    preprocessing: Preprocessing,
) -> Scaling:
    """How one channel ``(X, Y, Z)`` is normalised, by the kind of its values.

    Hounsfield units: ``ct_window`` maps to ``ct_range``. Otherwise: clip to the percentiles of the
    foreground, then subtract its mean and divide by its standard deviation. Where (nearly)
    everything is foreground, all voxels count, dark ones too.
    """
    if kind == "hounsfield":
        low, high = preprocessing.ct_window
        first, last = preprocessing.ct_range
        spread = (high - low) / (last - first)
        return Scaling(low, high, low - first * spread, spread)
    values = _sample(channel)
    body = values[values > threshold(channel, spacing, kind)]
    if body.size == 0 or body.size > 0.9 * values.size:
        body = values
    low, high = np.percentile(body, preprocessing.percentiles)
    body = np.clip(body, low, high)
    # A body of one single value has no contrast to scale.
    return Scaling(low, high, body.mean(), body.std() or 1.0)


def air(channel: npt.NDArray[np.generic], spacing: Sequence[float], kind: Kind) -> float:
    """What a channel ``(X, Y, Z)`` holds where there is no body, in its own values.

    For Hounsfield units -1000, else the median of what is darker than the body's threshold
    (noise included), or the least value where nothing is.
    """
    if kind == "hounsfield":
        return _AIR_HU
    values = _sample(channel)
    dark = values[values <= threshold(channel, spacing, kind)]
    return float(np.median(dark) if dark.size else values.min())


def block_means(channel: npt.NDArray[np.generic], blocks: Sequence[int]) -> npt.NDArray[np.float64]:
    """Means over blocks of voxels ``(X, Y, Z)``; the last block of an axis may be smaller."""
    means = np.asarray(channel)
    for axis, (n, b) in enumerate(zip(channel.shape, blocks, strict=True)):
        edges = np.arange(0, n, b)
        shape = [-1 if a == axis else 1 for a in range(3)]
        counts = np.diff(np.append(edges, n)).reshape(shape)
        means = np.add.reduceat(means, edges, axis=axis, dtype=np.float64) / counts
    return np.asarray(means, dtype=np.float64)


def _blocks(spacing: Sequence[float]) -> list[int]:
    return [max(1, round(_BLOCK_MM / s)) for s in spacing]


def _sample(array: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """About a million voxels on an even grid, flat: enough for percentiles."""
    step = max(1, round((array.size / _SAMPLES) ** (1 / 3)))
    every = (slice(None, None, step),) * 3
    return array[(..., *every)].astype(np.float64).ravel()
