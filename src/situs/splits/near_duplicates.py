"""Which scans are (nearly) the same, whatever was done to their intensities and orientation."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.stats import rankdata

from situs.store.grid import orient, orientation

Array = npt.NDArray[np.float32]

_SIDE = 16
# A value that so large a share of a thumbnail has is background: nothing else is that even.
_BACKGROUND = 0.05
# Places that two scans must share before what they show there is compared.
_ENOUGH = 32
_BLOCK = 512


def thumbnail(array: npt.NDArray[Any], affine: npt.ArrayLike) -> Array:
    """A scan ``(C, X, Y, Z)`` reduced to ``16³`` along R, A, S: ranks in (0, 1], flat.

    Ranks stand in for intensities, so that a change of window or units hides no duplicate; array
    axes are put in order first, so that another orientation hides none either.
    """
    upright = orient(array[:1], *orientation(np.asarray(affine, dtype=np.float64)))
    volume = torch.from_numpy(np.ascontiguousarray(upright, dtype=np.float32))
    small = F.adaptive_avg_pool3d(volume, _SIDE).numpy().ravel()
    return np.asarray(rankdata(small) / small.size, dtype=np.float32)


def pack(values: Array) -> str:
    """A thumbnail as text."""
    return base64.b64encode(values.astype("<f2").tobytes()).decode()


def unpack(text: str) -> Array:
    """What :func:`pack` packed."""
    return np.frombuffer(base64.b64decode(text), dtype="<f2").astype(np.float32)


def likeness(first: Array, second: Array) -> Array:
    """Correlation of every thumbnail of ``first (N, T)`` with every one of ``second (M, T)``.

    Over the places where neither shows its background: heads without skull in one space share
    their outline, which is most of a correlation over everything. Where those are less than half
    of either's, everything counts. Thumbnails of one value are like nothing.

    Returns:
        ``(N, M)`` in [−1, 1].
    """
    inside, others = _foreground(first), _foreground(second)
    enough = np.maximum(_ENOUGH, np.minimum(inside.sum(1)[:, None], others.sum(1)) / 2)
    everywhere = _correlation(first, second, np.ones_like(first), np.ones_like(second))
    within = _correlation(first, second, inside, others)
    return np.asarray(np.where(inside @ others.T >= enough, within, everywhere), np.float32)


def pairs_alike(thumbnails: Array, correlation: float) -> list[tuple[int, int, float]]:
    """Pairs ``i < j`` whose likeness reaches ``correlation``, with it."""
    found = []
    for low in range(0, len(thumbnails), _BLOCK):
        alike = likeness(thumbnails[low : low + _BLOCK], thumbnails)
        rows, columns = np.nonzero(alike >= correlation)
        for i, j in zip((rows + low).tolist(), columns.tolist(), strict=True):
            if i < j:
                found.append((i, j, float(alike[i - low, j])))
    return found


def _correlation(first: Array, second: Array, seen: Array, others: Array) -> Array:
    """Pearson's, of each pair over the places that both masks hold."""
    x, y = first * seen, second * others
    count = np.maximum(seen @ others.T, 1)
    mean_x, mean_y = x @ others.T / count, seen @ y.T / count
    covariance = x @ y.T / count - mean_x * mean_y
    spread_x = (x * first) @ others.T / count - mean_x**2
    spread_y = seen @ (y * second).T / count - mean_y**2
    spread = np.sqrt(np.maximum(spread_x, 0) * np.maximum(spread_y, 0))
    return np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 1e-7)


def _foreground(thumbnails: Array) -> Array:
    """1 where a thumbnail does not have its most frequent value, if that is frequent."""
    masks = np.ones_like(thumbnails)
    for mask, row in zip(masks, thumbnails, strict=True):
        values, counts = np.unique(row, return_counts=True)
        if counts.max() >= _BACKGROUND * row.size:
            mask[row == values[counts.argmax()]] = 0
    return masks
