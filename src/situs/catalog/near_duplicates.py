"""Which scans are (nearly) the same, whatever was done to their intensities and orientation."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from situs.geometry.axes import ras_axes, to_ras

Array = npt.NDArray[np.float32]
Thumbnail = npt.NDArray[np.float16]

ALIKE = 0.98
"""Likeness from which on two scans count as the same.

Between what was measured on both sides. Scans of different patients reach 0.87 (200 hippocampus
crops), 0.93 (14 abdominal MR) and 0.94 (200 cardiac MR, which hold two scans twice). Copies with a
fifth of a standard deviation of noise, eight bits, values clipped at the percentiles 1 and 99, a
gamma of 0.7, a blur of one voxel or pixels larger by a quarter keep 0.982 and mostly 0.99; a bias
field of 30 % or a crop of a fragment does not.
"""

COARSE_SLACK = 0.01
"""How much less than the fine pictures of a pair the coarse ones may agree.

They hold less noise: of the copies above that reach :data:`ALIKE`, none falls below 0.984. Of pairs
of different patients, 0.01 % (hippocampus), none (cardiac MR) and 3 % (abdominal MR) reach 0.97.
"""

_SIDE = 16
# A value that so large a share of a thumbnail has is background: nothing else is that even.
_BACKGROUND = 0.05
# Places that two scans must share before what they show there is compared.
_ENOUGH = 32
_LEAST_NORM = 0.02  # of float16's rounding in 4096 ranks
_COARSE_SIDE = 4
_BLOCK = 2048
_PIECE = 256


def thumbnail(array: npt.NDArray[Any], affine: npt.ArrayLike) -> Thumbnail:
    """A scan ``(C, X, Y, Z)`` reduced to ``16³`` along R, A, S: ranks in (0, 1], flat.

    Ranks of means over even parts of the first channel stand in for intensities, so that a change
    of window or units hides no duplicate; array axes are put in order first, so that another
    orientation hides none either.
    """
    (upright,) = to_ras(array[:1], *ras_axes(np.asarray(affine, dtype=np.float64)))
    small = _shrunk(upright)
    # As of scipy.stats.rankdata, whose import takes longer than this does for many a scan.
    _, which, counts = np.unique(small, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(ranks[which.ravel()] / small.size, dtype=np.float16)


def pack(values: Thumbnail) -> str:
    """A thumbnail as text."""
    return base64.b64encode(values.astype("<f2").tobytes()).decode()


def unpack(text: str) -> Thumbnail:
    """What :func:`pack` packed."""
    return np.frombuffer(base64.b64decode(text), dtype="<f2").astype(np.float16)


def likeness(first: npt.ArrayLike, second: npt.ArrayLike) -> Array:
    """Correlation of every thumbnail of ``first (N, T)`` with every one of ``second (M, T)``.

    Over the places where neither shows its background: heads without skull in one space share
    their outline, which is most of a correlation over everything. Where those are less than half
    of either's, everything counts. Thumbnails of one value are like nothing.

    Returns:
        ``(N, M)`` in [−1, 1].
    """
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return _likeness(first, second, _backgrounds(first), _backgrounds(second))


def _likeness(first: Array, second: Array, background: Array, other: Array) -> Array:
    inside, others = _foreground(first, background), _foreground(second, other)
    everywhere = _standardised(first) @ _standardised(second).T
    if inside.all() and others.all():
        return everywhere
    enough = np.maximum(_ENOUGH, np.minimum(inside.sum(1)[:, None], others.sum(1)) / 2)
    within = _correlation(first, second, inside, others)
    return np.asarray(np.where(inside @ others.T >= enough, within, everywhere), np.float32)


def pairs_alike(
    thumbnails: Sequence[Thumbnail],
    correlation: float = ALIKE,
    skip: Callable[[int, int], bool] = lambda i, j: False,
) -> list[tuple[int, int, float]]:
    """Pairs ``i < j`` that look alike, ordered, with their :func:`likeness`.

    Both must hold: their likeness reaches ``correlation``, and their means over ``4³`` parts
    correlate at least by :data:`COARSE_SLACK` less. The second is a product of 64 numbers a pair
    and leaves few pairs for the first: all pairs are asked, yet 100,000 scans take two minutes.

    Args:
        thumbnails: Each ``(4096,)``, of :func:`thumbnail`.
        correlation: In (0, 1].
        skip: Pairs of indices that are not asked.
    """
    coarse = _coarse(thumbnails)
    background = cache(lambda i: _background(np.asarray(thumbnails[i], np.float32)))
    found = []
    for low in range(0, len(coarse), _BLOCK):
        rows = coarse[low : low + _BLOCK]
        for high in range(low, len(coarse), _BLOCK):
            near = rows @ coarse[high : high + _BLOCK].T >= correlation - COARSE_SLACK
            for i, others in _candidates(near, low, high, skip):
                alike = _likeness(
                    np.asarray(thumbnails[i], np.float32)[None],
                    np.stack([thumbnails[j] for j in others]).astype(np.float32),
                    np.array([background(i)], np.float32),
                    np.array([background(j) for j in others], np.float32),
                )[0]
                found += [
                    (i, j, float(r)) for j, r in zip(others, alike, strict=True) if r >= correlation
                ]
    return sorted(found)


def _candidates(
    near: npt.NDArray[np.bool_], low: int, high: int, skip: Callable[[int, int], bool]
) -> Iterator[tuple[int, list[int]]]:
    """Each row of a block with the later columns that it is near to, in pieces."""
    for row in (np.flatnonzero(near.any(1)) + low).tolist():
        columns = (np.flatnonzero(near[row - low]) + high).tolist()
        asked = [column for column in columns if column > row and not skip(row, column)]
        for start in range(0, len(asked), _PIECE):
            yield row, asked[start : start + _PIECE]


def _coarse(thumbnails: Sequence[Thumbnail]) -> Array:
    """Means over ``4³`` parts of each thumbnail, standardised: ``(N, 64)``."""
    n, k = _SIDE // _COARSE_SIDE, _COARSE_SIDE
    means = np.zeros((len(thumbnails), k**3), np.float32)
    for mean, values in zip(means, thumbnails, strict=True):
        cells = values.astype(np.float32).reshape(k, n, k, n, k, n)
        mean[:] = cells.mean((1, 3, 5)).ravel()
    return _standardised(means)


def _shrunk(volume: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Means over :data:`_SIDE` even parts of each axis of ``(X, Y, Z)``; thin ones overlap.

    Plane by plane in the order of the memory, so that no copy of the scan is made. Sums come
    before divisions: an even background stays even to the last bit.
    """
    order = np.argsort([-abs(s) for s in volume.strides], kind="stable")
    turned = volume.transpose(order)
    first, second, third = (_parts(n) for n in turned.shape)
    planes = np.stack([second @ p.astype(np.float32).astype(np.float64) @ third.T for p in turned])
    sums = np.einsum("ax,xbc->abc", first, planes)
    counts = np.einsum("a,b,c->abc", first.sum(1), second.sum(1), third.sum(1))
    return np.asarray((sums / counts).transpose(np.argsort(order)))


def _parts(size: int) -> npt.NDArray[np.float64]:
    """``(16, size)``, 1 where a voxel belongs to a part, even partly."""
    place, part = np.arange(size), np.arange(_SIDE)[:, None]
    inside = (place >= part * size // _SIDE) & (place < -(-(part + 1) * size // _SIDE))
    return inside.astype(np.float64)


def _standardised(thumbnails: Array) -> Array:
    """Rows about their means and of norm 1; of zeros where there is but one value."""
    centred = thumbnails - thumbnails.mean(1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.where(norm > _LEAST_NORM, norm, np.inf), np.float32)


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


def _foreground(thumbnails: Array, backgrounds: Array) -> Array:
    """1 where a thumbnail does not have its background."""
    return (thumbnails != backgrounds[:, None]).astype(np.float32)


def _backgrounds(thumbnails: Array) -> Array:
    return np.array([_background(row) for row in thumbnails], np.float32)


def _background(thumbnail: Array) -> float:
    """Its most frequent value, if that is frequent, else NaN."""
    values, counts = np.unique(thumbnail, return_counts=True)
    most = counts.argmax()
    return float(values[most]) if counts[most] >= _BACKGROUND * thumbnail.size else math.nan
