"""Images cut from a scan along any plane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from situs.geometry import Plane
from situs.views.inside import shown
from situs.views.resampling import resampled
from situs.views.source import Source

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


def cut_planes(
    source: Source, planes: Sequence[Plane], seen: npt.NDArray[np.bool_] | None = None
) -> Array:
    """Trilinear cuts through a scan.

    Small scans are kept decoded from sample to sample; of large ones only boxes about the planes
    are read, one for planes that lie close together.

    Args:
        source: The scan.
        planes: N planes of one shape, in the scan's world frame.
        seen: ``(N, rows, columns)``, pixels to look at; the others are background. All where None.

    Returns:
        ``(N, C, rows, columns)``; outside the scan its background, into which the outermost
        voxels fade as they would into a further one of air.
    """
    return resampled(source, pixel_to_voxel(source, planes), planes[0].shape, seen)


def cut_discs(
    source: Source, planes: Sequence[Plane], centers_mm: npt.ArrayLike, radius_mm: float | None
) -> Array:
    """:func:`cut_planes` where slices show a disc each, about ``centers_mm (N, 3)``, or all.

    Outside the discs lies the scan's background.
    """
    if radius_mm is None:
        return cut_planes(source, planes)
    return cut_planes(source, planes, shown(planes, np.asarray(centers_mm), radius_mm))


def pixel_to_voxel(source: Source, planes: Sequence[Plane]) -> Floats:
    """Where pixels lie among the voxels, ``(N, 3, 3)``.

    Of each voxel axis the coordinate of pixel (0, 0), the step by a column and that by a row.
    """
    to_vox = np.linalg.inv(source.affine)
    mm = np.array([[p.origin_mm, p.row_mm, p.column_mm] for p in planes])
    mm[:, 1:] *= np.array([p.spacing[::-1] for p in planes])[..., None]
    maps: Floats = to_vox[:3, :3] @ mm.transpose(0, 2, 1)
    maps[..., 0] += to_vox[:3, 3]
    return maps


def centred_plane(
    center_mm: npt.ArrayLike,
    row_mm: npt.ArrayLike,
    column_mm: npt.ArrayLike,
    shape: tuple[int, int],
    spacing: tuple[float, float],
) -> Plane:
    """The plane whose image has its middle at ``center_mm``."""
    row, column = np.asarray(row_mm, np.float64), np.asarray(column_mm, np.float64)
    corner = (
        np.asarray(center_mm, np.float64)
        - (shape[1] - 1) / 2 * spacing[1] * row
        - (shape[0] - 1) / 2 * spacing[0] * column
    )
    return Plane(corner, row, column, shape, spacing)
