"""Discs of slices that lie wholly inside a scan, so that its border tells nothing.

Where a slice shows the border of the scan, the border's outline alone tells how the slice lies
in it, and a network can answer without looking at anatomy. A disc of one size for all slices,
that lies inside the scan wherever it is, has an outline that is the same for every slice.

Ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from situs.geometry import PlaneArray

Array = npt.NDArray[np.float64]

_MOVES = 12  # away from the face that a disc reaches farthest beyond
_LEAST_SLOPE = 0.05  # sine of a plane's angle to a face that a move within it can leave


@dataclass(frozen=True)
class Room:
    """The inside of a scan, between its outermost voxel centres.

    A point x lies inside where n · x ≤ d for each of the six faces.

    Attributes:
        normals: ``(6, 3)`` unit normals of the faces, outwards, in RAS mm.
        limits_mm: ``(6,)``.
    """

    normals: Array
    limits_mm: Array

    @classmethod
    def of(cls, affine: Array, shape: Sequence[int]) -> Room:
        """The room of a scan of this affine ``(4, 4)`` and shape."""
        to_vox = np.linalg.inv(affine)
        length = np.linalg.norm(to_vox[:3, :3], axis=1)
        outwards, offset = to_vox[:3, :3] / length[:, None], to_vox[:3, 3] / length
        last = (np.asarray(shape) - 1) / length
        return cls(np.concatenate([outwards, -outwards]), np.concatenate([last - offset, offset]))

    @property
    def size_mm(self) -> float:
        """Distance from corner to corner, at most."""
        return float(np.linalg.norm(self.limits_mm[:3] + self.limits_mm[3:]))

    def slack_mm(self, middles_mm: Array, within_mm: Array, axes: Array, radius_mm: float) -> Array:
        """How far discs stay from the nearest face; negative where they reach beyond.

        Args:
            middles_mm: ``(K, L, 3)`` points of K parallel sets of L planes.
            within_mm: ``(K, P, 2)`` where discs have their centres from these points, along the
                rows and columns of their planes.
            axes: ``(K, 2, 3)`` row and column direction of the planes.
            radius_mm: Of all discs.

        Returns:
            ``(K, L, P)``.
        """
        slopes = self.normals @ axes.transpose(0, 2, 1)  # (K, 6, 2)
        # Within its plane a disc reaches as far towards a face as the face's normal lies in it.
        reach = radius_mm * np.sqrt(np.square(slopes).sum(-1))
        left = (self.limits_mm - reach)[..., None] - self.normals @ middles_mm.transpose(0, 2, 1)
        moved = slopes @ within_mm.transpose(0, 2, 1)
        least: Array = (left[..., None] - moved[:, :, None]).min(1)
        return least

    def moved_in(self, centers_mm: Array, axes: Array, radius_mm: float) -> Array:
        """Discs moved within their planes until they lie inside, where they fit.

        Args:
            centers_mm: ``(K, 3)``.
            axes: ``(K, 2, 3)``.
            radius_mm: Of all discs.

        Returns:
            ``(K, 3)``; those that lay inside are where they were.
        """
        within = axes @ self.normals.T  # (K, 2, 6)
        length = np.linalg.norm(within, axis=1)
        limits = self.limits_mm - radius_mm * length
        centers, each = centers_mm.copy(), np.arange(len(centers_mm))
        for _ in range(_MOVES):
            slack = limits - centers @ self.normals.T
            # A face that lies along the plane cannot be moved away from.
            slack = np.where(length > _LEAST_SLOPE, slack, 0)
            face = slack.argmin(1)
            short = np.minimum(slack[each, face], 0)
            if not short.any():
                break
            away = short / np.maximum(length[each, face], 1e-9) ** 2
            centers += away[:, None] * (within[each, None, :, face] @ axes)[:, 0]
        moved: Array = centers
        return moved


class Windows(NamedTuple):
    """The parts of views that hold what they show.

    Attributes:
        starts: ``(N, 2)`` first row and column of each.
        shown: ``(N, rows, columns)``, which of their pixels are shown; all are of one size.
    """

    starts: npt.NDArray[np.int64]
    shown: npt.NDArray[np.bool_]


def disc_windows(views: PlaneArray, centers_mm: Array, radius_mm: float) -> Windows:
    """Where views show the disc about each one's centre.

    Args:
        views: N views of one shape.
        centers_mm: ``(N, 3)``.
        radius_mm: Of all discs.
    """
    axes = views.axes[:, ::-1]  # rows follow one another along columns
    middle = (axes @ (centers_mm - views.origin_mm)[..., None])[..., 0] / views.spacing
    radius = radius_mm / views.spacing
    shape = views.shape[0]
    size = np.minimum(np.ceil(2 * radius.max(0)).astype(np.int64) + 2, shape)
    starts = np.clip(np.floor(middle - radius), 0, shape - size).astype(np.int64)
    offset = starts - middle
    down = np.square(offset[:, :1] + np.arange(size[0])) / np.square(radius[:, :1])
    across = np.square(offset[:, 1:] + np.arange(size[1])) / np.square(radius[:, 1:])
    return Windows(starts, across[:, None, :] <= 1 - down[:, :, None])
