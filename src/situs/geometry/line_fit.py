"""The line behind a predicted heat map, with sub-pixel precision and a confidence.

The maps are those of arXiv 2403.16499; the fit and its confidence are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Directions tried besides the principal one: a short or noisy band has no reliable axis.
_TURNS = np.radians([0, 22.5, 45, 67.5, 90, 112.5, 135, 157.5])
_COARSE = 4
_SAMPLES_PER_SIGMA = 2.5
_BLOCK = 16  # maps at once, to bound the memory


def fit_line(
    heatmaps: npt.ArrayLike, spacing: Sequence[float], sigma_mm: float, iterations: int = 12
) -> tuple[Array, Array]:
    """Least-squares fit of A·exp(−d² / 2σ²) to each heat map.

    Starts from the best of several directions through the map's centre of mass and refines angle,
    offset and amplitude by Levenberg–Marquardt, over all pixels of many maps at once.

    Args:
        heatmaps: ``(…, rows, columns)``, as :func:`~situs.geometry.line_heatmap` makes them.
        spacing: Millimetres (between rows, between columns).
        sigma_mm: Of the target maps.
        iterations: At most.

    Returns:
        lines: ``(…, 3)`` normal form in pixels; NaN where the map has nothing positive.
        confidence: ``(…)`` in [0, 1]: the correlation between the map and the fitted band, times
            the band's amplitude up to 1. It is low for blurred, faint or ambiguous maps.
    """
    maps = np.clip(np.nan_to_num(np.asarray(heatmaps, dtype=np.float64)), 0, None)
    leading, (rows, columns) = maps.shape[:-2], maps.shape[-2:]
    flat = maps.reshape(-1, rows, columns)
    empty = flat.max((1, 2)) <= 0
    # A band is smooth: a few samples across it hold all that its pixels do.
    step = max(1, int(sigma_mm / (max(spacing) * _SAMPLES_PER_SIGMA)))
    flat = flat[:, ::step, ::step]
    center = np.array([(columns - 1) / 2 * spacing[1], (rows - 1) / 2 * spacing[0]])
    x = np.arange(0, columns, step) * spacing[1] - center[0]
    y = np.arange(0, rows, step) * spacing[0] - center[1]

    parameters, confidence = np.zeros((len(flat), 3)), np.zeros(len(flat))
    for i in range(0, len(flat), _BLOCK):
        block = slice(i, i + _BLOCK)
        start = _start(flat[block], x, y, sigma_mm)
        parameters[block] = _refine(flat[block], start, x, y, sigma_mm, iterations)
        band, _ = _band(parameters[block], x, y, sigma_mm)
        confidence[block] = _correlation(flat[block], band)
    angle, offset, amplitude = parameters.T
    confidence *= np.clip(amplitude, 0, 1)

    normal_mm = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    normal_px = normal_mm * [spacing[1], spacing[0]]
    lines = np.concatenate([normal_px, (offset - normal_mm @ center)[:, None]], axis=-1)
    lines /= np.linalg.norm(normal_px, axis=-1, keepdims=True)
    lines[empty], confidence[empty] = np.nan, 0
    return lines.reshape(*leading, 3), confidence.reshape(leading)


def _start(maps: Array, x: Array, y: Array, sigma: float) -> Array:
    """``(N, 3)`` angle, offset, amplitude: the best direction through the centre of mass."""
    weight = maps**2
    total = np.maximum(weight.sum((1, 2)), np.finfo(np.float64).tiny)
    in_columns, in_rows = weight.sum(1) / total[:, None], weight.sum(2) / total[:, None]
    mean_x, mean_y = in_columns @ x, in_rows @ y
    xx = in_columns @ x**2 - mean_x**2
    yy = in_rows @ y**2 - mean_y**2
    xy = np.einsum("r,nrc,c->n", y, weight, x, optimize=True) / total - mean_x * mean_y
    across = np.arctan2(2 * xy, xx - yy) / 2 + np.pi / 2
    angle = across + _TURNS[:, None]
    offset = -(np.cos(angle) * mean_x + np.sin(angle) * mean_y)
    tried = np.stack([angle, offset, np.ones_like(angle)], axis=-1)
    coarse = maps[:, ::_COARSE, ::_COARSE]
    fit = np.stack(
        [
            _correlation(coarse, _band(p, x[::_COARSE], y[::_COARSE], sigma)[0])
            for p in tried  # one direction at a time bounds the memory
        ]
    )
    best = tried[fit.argmax(0), np.arange(len(maps))]
    best[:, 2] = maps.max((1, 2))
    return best


def _refine(maps: Array, start: Array, x: Array, y: Array, sigma: float, iterations: int) -> Array:
    """Levenberg–Marquardt with one damping a map; a step that does not help is not taken."""
    parameters, damping = start.copy(), np.full(len(maps), 1e-3)
    band, jacobian = _band(parameters, x, y, sigma)
    cost = ((maps - band) ** 2).sum((1, 2))
    # A turn by one radian moves the ends of a band by its length; scale it to a shift in mm.
    scale = np.array([1 / max(np.ptp(x), np.ptp(y), sigma), 1.0, 1 / sigma])
    for _ in range(iterations):
        columns = jacobian.reshape(len(maps), 3, -1) * scale[:, None]
        normal = columns @ columns.swapaxes(1, 2)
        slope = columns @ (maps - band).reshape(len(maps), -1, 1)
        diagonal = np.einsum("nii->ni", normal)
        diagonal += damping[:, None] * (diagonal.max(1, keepdims=True) + 1e-12) + 1e-12
        step = np.linalg.solve(normal, slope)[..., 0] * scale
        tried = parameters + step
        new_band, new_jacobian = _band(tried, x, y, sigma)
        new_cost = ((maps - new_band) ** 2).sum((1, 2))
        better = new_cost < cost
        damping = np.where(better, damping / 10, damping * 10)
        if not better.any():
            if (damping > 1e3).all():
                break
            continue
        parameters[better], band[better] = tried[better], new_band[better]
        jacobian[better] = new_jacobian[better]
        settled = (cost - new_cost)[better] < 1e-12 * cost[better] + 1e-15
        cost = np.where(better, new_cost, cost)
        if settled.all():
            break
    return parameters


def _band(parameters: Array, x: Array, y: Array, sigma: float) -> tuple[Array, Array]:
    """The model ``(N, rows, columns)`` and its derivatives ``(N, 3, rows, columns)``."""
    angle, offset, amplitude = (p[:, None, None] for p in parameters.T)
    cos, sin = np.cos(angle), np.sin(angle)
    column, row = x[None, None, :], y[None, :, None]
    d = cos * column + sin * row + offset
    unit = np.exp(-(d**2) / (2 * sigma**2))
    band = amplitude * unit
    by_offset = -band * d / sigma**2
    by_angle = by_offset * (cos * row - sin * column)
    return band, np.stack([by_angle, by_offset, unit], axis=1)


def _correlation(maps: Array, bands: Array) -> Array:
    """Pearson's correlation of each map with its band, negative ones as 0."""
    p = maps - maps.mean((1, 2), keepdims=True)
    q = bands - bands.mean((1, 2), keepdims=True)
    norm = np.sqrt((p**2).sum((1, 2)) * (q**2).sum((1, 2)))
    return np.clip((p * q).sum((1, 2)) / np.maximum(norm, np.finfo(np.float64).tiny), 0, 1)
