"""Images cut from a scan along any plane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from situs.geometry import Plane
from situs.views.source import Source

Array = npt.NDArray[np.float32]


def cut(source: Source, planes: Sequence[Plane]) -> Array:
    """Trilinear cuts through a scan; only the box that the planes pass through is read.

    Args:
        source: The scan.
        planes: N planes of one shape, in the scan's world frame.

    Returns:
        ``(N, C, rows, columns)``; outside the scan its background, into which the outermost
        voxels fade as they would into a further one of air.
    """
    shape = np.asarray(source.shape)
    vox = np.stack([_voxels(source, plane) for plane in planes])
    # One voxel of air is enough: all beyond it is the border of what was read.
    low = np.floor(vox.min((0, 1, 2)).clip(-1, shape)).astype(int)
    high = np.ceil(vox.max((0, 1, 2)).clip(-1, shape)).astype(int)
    size = high - low + 1
    box = torch.from_numpy(source.read(low.tolist(), size.tolist()))
    # grid_sample wants (x, y, z) in reverse axis order, −1 and 1 at the outer voxel faces.
    grid = (2 * (vox - low) + 1) / size - 1
    sampled = torch.nn.functional.grid_sample(
        box[None],
        torch.from_numpy(grid[None, ..., ::-1].astype(np.float32)),
        padding_mode="border",
        align_corners=False,
    )[0]
    return np.asarray(sampled.swapaxes(0, 1).numpy())


def _voxels(source: Source, plane: Plane) -> npt.NDArray[np.float64]:
    """``(rows, columns, 3)`` voxel coordinates of a plane's pixel centres."""
    rows, columns = plane.shape
    to_vox = np.linalg.inv(source.affine)
    corners = plane.to_mm([[0, 0], [1, 0], [0, 1]]) @ to_vox[:3, :3].T + to_vox[:3, 3]
    origin, column_step, row_step = corners[0], corners[1] - corners[0], corners[2] - corners[0]
    return np.asarray(
        origin
        + np.arange(columns)[None, :, None] * column_step
        + np.arange(rows)[:, None, None] * row_step
    )


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
