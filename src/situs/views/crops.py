"""Crops of random place and size, resampled to one size: drawn first, cut afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from situs.views.decoded import read_crop
from situs.views.source import Source
from situs.views.subvolume import random_start, spanned, start_near


@dataclass(frozen=True)
class Crop:
    """Where a view is cut: first voxel, extent in the scan, and axes along which it is flipped."""

    start: tuple[int, int, int]
    extent: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @property
    def centre_vox(self) -> npt.NDArray[np.float64]:
        """Middle of the crop, in voxels from the scan's first corner."""
        return np.asarray(self.start) + np.asarray(self.extent) / 2


def draw_crop(
    shape: Sequence[int],
    size: Sequence[int],
    zoom: tuple[float, float],
    flip: float,
    rng: np.random.Generator,
    axis: int | None = None,
    centre_vox: npt.ArrayLike | None = None,
) -> Crop:
    """Draw a crop anywhere in the scan, or about a place, moved as little as keeps it inside.

    Args:
        shape: Voxels of the scan along each axis.
        size: Voxels of the view, two for a slice.
        zoom: Range of the crop's extent relative to ``size``, drawn log-uniformly for all axes.
        flip: Probability of mirroring along each axis.
        rng: Source of randomness.
        axis: That a slice is perpendicular to; it is neither zoomed nor flipped along it.
        centre_vox: Middle of the crop; None for any.
    """
    full = np.asarray(spanned(size, axis))
    within = np.arange(3) != axis
    factor = np.exp(rng.uniform(*np.log(zoom)))
    extent = np.where(within, np.rint(full * factor).astype(int).clip(min=2), full).tolist()
    if centre_vox is None:
        start = random_start(shape, extent, rng)
    else:
        start = start_near(np.asarray(centre_vox, dtype=np.float64), shape, extent)
    x, y, z = (bool(f) for f in (rng.random(3) < flip) & within)
    return Crop(start, (extent[0], extent[1], extent[2]), (x, y, z))


def cut(source: Source, crop: Crop, size: Sequence[int]) -> npt.NDArray[np.float32]:
    """Read ``crop`` and resample it to ``size`` by trilinear interpolation, ``(C, *size)``."""
    view = torch.from_numpy(read_crop(source, crop.start, crop.extent))[None]
    if crop.extent != tuple(size):
        view = F.interpolate(view, size=tuple(size), mode="trilinear", align_corners=False)
    flipped = torch.flip(view[0], [axis + 1 for axis in range(3) if crop.flips[axis]])
    return np.ascontiguousarray(flipped.numpy())
