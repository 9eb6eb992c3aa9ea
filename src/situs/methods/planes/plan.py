"""View planning: the plane that a target view should have, from lines in other views.

The idea, and the two measures of a planned plane, are those of arXiv 2309.12805; the robust fit,
its weights and what counts as too few lines are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from situs.errors import SitusError
from situs.geometry import Plane, clip_lines
from situs.geometry.plane_fit import PlaneFit, fit_plane, plane_angle_deg
from situs.geometry.planes import near_parallel
from situs.views.planes import centred_plane
from situs.views.planes_virtual import in_plane_axes

Array = npt.NDArray[np.float64]

# Views less than this apart see nearly the same line, which leaves the plane free to turn.
_MIN_VIEW_ANGLE_DEG = 10.0
# Long-axis views of a heart all see the long axis: lines that spread less across than this share
# of their length are one line and its errors, and a plane through them would turn at random.
_MIN_SPREAD = 0.15


@dataclass(frozen=True)
class PlannedPlane:
    """A target plane and how well the views agree on it.

    Attributes:
        fit: Plane, residual and final weight of each view that had a line.
        views: Indices of those views.
    """

    fit: PlaneFit
    views: tuple[int, ...]

    def plane(self, shape: tuple[int, int], spacing: tuple[float, float]) -> Plane:
        """As an image about the middle of the lines, rows towards the patient's right or front."""
        row, column = in_plane_axes(self.fit.normal_mm)
        return centred_plane(self.fit.point_mm, row, column, shape, spacing)

    def deviation(self, acquired: Plane) -> tuple[float, float]:
        """Angle in degrees to the acquired plane, and distance in mm of its image's centre.

        The measures of arXiv 2309.12805.
        """
        angle = plane_angle_deg(self.fit.normal_mm, acquired.normal_mm)
        return float(angle), float(abs(self.fit.distance_mm(acquired.center_mm)))


def plan_plane(
    views: Sequence[Plane],
    lines: npt.ArrayLike,
    confidence: npt.ArrayLike | None = None,
    min_confidence: float = 0.1,
) -> PlannedPlane:
    """The plane that the lines predicted in several views lie in (design 5.4).

    Each line's visible segment is taken into space and counts with its confidence times its
    length; see :func:`~situs.geometry.plane_fit.fit_plane`.

    Args:
        views: N source images.
        lines: ``(N, 3)`` normal form in pixels of each, NaN where there is none.
        confidence: ``(N,)`` of each line, 1 by default.
        min_confidence: Lines below it are left out.

    Raises:
        SitusError: With fewer than two usable lines, in views that are not near-parallel, or
            with lines that are all nearly one.
    """
    line = np.asarray(lines, dtype=np.float64).reshape(-1, 3)
    sure = np.ones(len(line)) if confidence is None else np.asarray(confidence, dtype=np.float64)
    segments_px, inside = clip_lines(line, np.array([v.shape for v in views]).reshape(-1, 2))
    usable = np.flatnonzero(inside & (sure >= min_confidence)).tolist()
    chosen = [views[i] for i in usable]
    if not any(not near_parallel(chosen[0], v, _MIN_VIEW_ANGLE_DEG) for v in chosen[1:]):
        raise SitusError(
            f"a plane can be planned from lines in at least two views that are not parallel; "
            f"{len(usable)} of {len(views)} views have a usable line. Give more views, or train "
            "longer."
        )
    segments = np.stack([v.to_mm(segments_px[i]) for v, i in zip(chosen, usable, strict=True)])
    length = np.linalg.norm(segments[:, 1] - segments[:, 0], axis=-1)
    fit = fit_plane(segments, sure[usable] * length)
    if fit.extent_mm[1] < _MIN_SPREAD * fit.extent_mm[2]:
        raise SitusError(
            f"the lines in the {len(usable)} usable views are nearly one line, about which the "
            "plane could turn; give views that cross it elsewhere"
        )
    return PlannedPlane(fit, tuple(usable))
