"""The plane that lines seen in several images lie in, by weighted least squares.

View planning aggregates the lines of several views by least squares (arXiv 2309.12805); segments
as mass, and the reweighting against lines that are far off, are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from situs.errors import SitusError

Array = npt.NDArray[np.float64]

# Below this share of the longest extent the second one is noise: the lines are one line.
_FLAT = 1e-2
_ITERATIONS = 20


@dataclass(frozen=True)
class PlaneFit:
    """A plane through lines.

    Attributes:
        point_mm: ``(3,)`` weighted middle of the lines.
        normal_mm: ``(3,)`` unit normal; its sign is arbitrary.
        residuals_mm: ``(N,)`` root mean square distance of each line's segment from the plane.
        weights: ``(N,)`` weight that each line had in the end.
        extent_mm: ``(3,)`` weighted standard deviation of the lines' points along the normal and
            along the two directions in the plane, rising. Where the second is not much larger
            than the error of a line, the plane is free to turn.
    """

    point_mm: Array
    normal_mm: Array
    residuals_mm: Array
    weights: Array
    extent_mm: Array

    def distance_mm(self, points_mm: npt.ArrayLike) -> Array:
        """Signed distance of ``(…, 3)`` points."""
        offset = np.asarray(points_mm, dtype=np.float64) - self.point_mm
        return np.asarray(offset @ self.normal_mm)


def fit_plane(
    segments_mm: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    robust_mm: float | None = 3.0,
) -> PlaneFit:
    """Least-squares plane of N line segments in space.

    Minimises Σ_i w_i ∫ (n · x − d)² over each segment. A segment counts as uniform mass, whose
    second moment is in closed form, so the plane is an eigenvector of a 3 × 3 matrix.

    Args:
        segments_mm: ``(N, 2, 3)`` end points.
        weights: ``(N,)`` confidence of each line; equal by default.
        robust_mm: Minimise Cauchy's loss instead, under which a line this far off has half its
            weight: by reweighting, from the best of the planes through any two lines. None for
            plain least squares.

    Raises:
        SitusError: With fewer than two lines of positive weight, or lines that are all one.
    """
    segments = np.asarray(segments_mm, dtype=np.float64)
    given = np.ones(len(segments)) if weights is None else np.asarray(weights, dtype=np.float64)
    if (given > 0).sum() < 2:
        raise SitusError(
            f"a plane needs lines from at least two views, got {int((given > 0).sum())}"
        )
    fit = _fit(segments, given)
    if robust_mm is None:
        return fit
    fit = _consensus(segments, given, robust_mm, fit)
    for _ in range(_ITERATIONS):
        weight = given / (1 + (fit.residuals_mm / robust_mm) ** 2)
        previous, fit = fit, _fit(segments, weight)
        if abs(previous.normal_mm @ fit.normal_mm) > 1 - 1e-12:
            break
    return fit


def _consensus(segments: Array, given: Array, scale: float, fit: PlaneFit) -> PlaneFit:
    """The best under Cauchy's loss of ``fit`` and the planes through two lines each."""
    pairs = np.array(list(combinations(np.flatnonzero(given > 0), 2)))
    weights = np.zeros((len(pairs), len(given)))
    np.put_along_axis(weights, pairs, given[pairs], axis=1)
    through = _solve(segments, weights)
    loss = np.log1p(through.squared / scale**2) @ given
    # Two lines that are one fix no plane; others may.
    loss = np.where(through.flat, np.inf, loss)
    least = int(loss.argmin())
    if loss[least] < given @ np.log1p((fit.residuals_mm / scale) ** 2):
        return _fit(segments, weights[least])
    return fit


def plane_angle_deg(first: npt.ArrayLike, second: npt.ArrayLike) -> Array:
    """Angle ``(…)`` between planes with normals ``(…, 3)``, 0 to 90 degrees."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    sine = np.linalg.norm(np.cross(a, b), axis=-1)
    return np.degrees(np.arctan2(sine, np.abs((a * b).sum(-1))))


class _Solved(NamedTuple):
    """Planes of least squares under several weightings of the same lines, on the leading axes."""

    point: Array
    normal: Array
    squared: Array  # of each line's distance
    extent: Array

    @property
    def flat(self) -> Any:
        """Whether the lines are nearly one."""
        return self.extent[..., 1] < _FLAT * self.extent[..., 2]


def _solve(segments: Array, weights: Array) -> _Solved:
    """Of ``segments (N, 2, 3)`` under ``weights (…, N)``."""
    middles, halves = segments.mean(1), (segments[:, 1] - segments[:, 0]) / 2
    share = weights / weights.sum(-1, keepdims=True)
    point = share @ middles
    offset = middles - point[..., None, :]
    # Over a segment of half length h, the mean of (x − middle)(x − middle)ᵀ is h hᵀ / 3.
    moment = (offset * share[..., None]).swapaxes(-1, -2) @ offset
    moment += (halves * share[..., None]).swapaxes(-1, -2) @ halves / 3
    values, vectors = np.linalg.eigh(moment)
    normal = vectors[..., 0]
    squared = (offset @ normal[..., None])[..., 0] ** 2 + (normal @ halves.T) ** 2 / 3
    return _Solved(point, normal, squared, np.sqrt(values.clip(0)))


def _fit(segments: Array, weights: Array) -> PlaneFit:
    found = _solve(segments, weights)
    if found.flat:
        raise SitusError("the lines of all views are nearly one line, which fixes no plane")
    return PlaneFit(found.point, found.normal, np.sqrt(found.squared), weights, found.extent)
