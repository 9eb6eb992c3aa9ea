"""Where a sub-volume or slice begins, and the affine of what was cut there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from situs.views.scan_grid import stack_axes
from situs.views.source import Source


def random_start(
    shape: Sequence[int], size: Sequence[int], rng: np.random.Generator
) -> tuple[int, int, int]:
    """First voxel of a random crop that stays inside the scan.

    Along an axis on which the scan is smaller than the crop, the scan is centred in it.

    Args:
        shape: Voxels of the scan along each axis.
        size: Voxels of the crop along each axis.
        rng: Source of randomness.
    """
    x, y, z = (
        int(rng.integers(0, n - k + 1)) if n >= k else -((k - n) // 2)
        for n, k in zip(shape, size, strict=True)
    )
    return (x, y, z)


def slice_axis(
    source: Source, dims: int, rng: np.random.Generator, axes: Sequence[int] | None = None
) -> int | None:
    """Draw the axis that a view of two dimensions is perpendicular to; None for one of three.

    Args:
        source: The scan.
        dims: Of the view.
        rng: Source of randomness.
        axes: To draw from; by default a stack's own axis, or any of a volume without one.
    """
    if dims == 3:
        return None
    axes = axes or stack_axes(source)
    return axes[int(rng.integers(len(axes)))]


def spanned(size: Sequence[int], axis: int | None) -> tuple[int, int, int]:
    """Voxels of a view along the scan's three axes: one along ``axis`` for a slice."""
    x, y, z = size if axis is None else (*size[:axis], 1, *size[axis:])
    return (x, y, z)


def start_near(
    centre_vox: npt.NDArray[np.float64], shape: Sequence[int], size: Sequence[int]
) -> tuple[int, int, int]:
    """First voxel of the crop about ``centre_vox``, moved as little as keeps it in the scan."""
    x, y, z = (
        int(np.clip(round(c - k / 2), 0, n - k)) if n >= k else -((k - n) // 2)
        for c, n, k in zip(centre_vox, shape, size, strict=True)
    )
    return (x, y, z)


def crop_affine(
    affine: npt.NDArray[np.float64], start_vox: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """The affine of a crop that begins at voxel ``start_vox`` of a scan with ``affine``."""
    moved = np.array(affine, dtype=np.float64)
    moved[:3, 3] += moved[:3, :3] @ np.asarray(start_vox, dtype=np.float64)
    return moved


def inside_mask(
    shape: Sequence[int], start: Sequence[int], size: Sequence[int]
) -> npt.NDArray[np.bool_]:
    """``(*size)``, true where a crop's voxel lies inside the scan and is not padding."""
    axes = [
        (np.arange(s, s + k) >= 0) & (np.arange(s, s + k) < n)
        for n, s, k in zip(shape, start, size, strict=True)
    ]
    inside: npt.NDArray[np.bool_] = axes[0][:, None, None] & axes[1][:, None] & axes[2]
    return inside
