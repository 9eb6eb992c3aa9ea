"""Images cut from a scan along any plane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from situs.geometry import Plane, PlaneArray
from situs.views.framed import Framed
from situs.views.inside import disc_windows
from situs.views.resampling import resampled
from situs.views.scan_grid import grid_of
from situs.views.source import Source

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


def cut_planes(source: Source, planes: Sequence[Plane]) -> Array:
    """Trilinear cuts through a scan.

    Small scans are kept decoded from sample to sample; of large ones only boxes about the planes
    are read, one for planes that lie close together.

    Args:
        source: The scan.
        planes: N planes of one shape, in the scan's world frame.

    Returns:
        ``(N, C, rows, columns)``; outside the scan its background, into which the outermost
        voxels fade as they would into a further one of air.
    """
    views = PlaneArray.of(planes)
    rows, columns = views.shape[0].tolist()
    return resampled(source, pixel_to_voxel(source, views), (rows, columns))


def cut_discs(
    source: Source, planes: Sequence[Plane], centers_mm: npt.ArrayLike, radius_mm: float | None
) -> Array:
    """:func:`cut_planes` where slices show a disc each, about ``centers_mm (N, 3)``, or all.

    Outside the discs lies the scan's background; only the window about each is looked at.
    """
    return framed_discs(source, planes, centers_mm, radius_mm).whole()


def framed_discs(
    source: Source, planes: Sequence[Plane], centers_mm: npt.ArrayLike, radius_mm: float | None
) -> Framed:
    """What :func:`cut_discs` gives, as the windows that hold the discs."""
    views = PlaneArray.of(planes)
    if radius_mm is None:
        return Framed.of(cut_planes(source, views))
    starts, shown = disc_windows(views, np.asarray(centers_mm, np.float64), radius_mm)
    maps = pixel_to_voxel(source, views)
    maps[..., 0] += (maps[..., :0:-1] @ starts[..., None])[..., 0]
    rows, columns = shown.shape[1:]
    air = grid_of(source).background
    parts = np.where(shown[:, None], resampled(source, maps, (rows, columns)), air[:, None, None])
    height, width = views.shape[0].tolist()
    return Framed(parts, starts, air, (height, width))


def pixel_to_voxel(source: Source, planes: PlaneArray) -> Floats:
    """Where pixels lie among the voxels, ``(N, 3, 3)``.

    Of each voxel axis the coordinate of pixel (0, 0), the step by a column and that by a row.
    """
    to_vox = grid_of(source).to_vox
    mm = np.concatenate([planes.origin_mm[:, None], planes.steps_mm], axis=1)
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
    return Plane(_corner(center_mm, row, column, shape, spacing), row, column, shape, spacing)


def centred_planes(
    centers_mm: npt.ArrayLike,
    rows_mm: Floats,
    columns_mm: Floats,
    shape: tuple[int, int],
    spacing: npt.ArrayLike,
) -> PlaneArray:
    """Planes of one shape whose images have their middles at ``centers_mm (N, 3)``.

    Args:
        centers_mm: Middles.
        rows_mm: ``(N, 3)`` unit directions along rows.
        columns_mm: ``(N, 3)`` those along columns, perpendicular to them.
        shape: Rows and columns.
        spacing: Millimetres between pixels, ``(N, 1)``, ``(N, 2)`` or what broadcasts to it.
    """
    count = len(rows_mm)
    steps = np.empty((count, 2))
    sizes = np.empty((count, 2), dtype=np.int64)
    steps[:], sizes[:] = spacing, shape
    corner = _corner(centers_mm, rows_mm, columns_mm, shape, steps.T[..., None])
    return PlaneArray(corner, rows_mm, columns_mm, sizes, steps)


def _corner(
    center_mm: npt.ArrayLike,
    row: Floats,
    column: Floats,
    shape: tuple[int, int],
    spacing: Sequence[float] | Floats,
) -> Floats:
    rows, columns = shape
    corner: Floats = (
        np.asarray(center_mm, np.float64)
        - (columns - 1) / 2 * spacing[1] * row
        - (rows - 1) / 2 * spacing[0] * column
    )
    return corner
