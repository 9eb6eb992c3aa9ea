"""Crops of random place and size, resampled to one size: drawn first, cut afterwards.

Crops of random size are SimCLR's (arXiv 2002.05709); that several lie about one place, in a scan
that is larger than a photo, is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from situs.views.decoded import read_crop
from situs.views.intensity import IntensityConfig, jitter
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


def cut_crop(source: Source, crop: Crop, size: Sequence[int]) -> npt.NDArray[np.float32]:
    """Read ``crop`` and resample it to ``size`` by trilinear interpolation, ``(C, *size)``."""
    view = torch.from_numpy(read_crop(source, crop.start, crop.extent))[None]
    if crop.extent != tuple(size):
        view = F.interpolate(view, size=tuple(size), mode="trilinear", align_corners=False)
    flipped = torch.flip(view[0], [axis + 1 for axis in range(3) if crop.flips[axis]])
    return np.ascontiguousarray(flipped.numpy())


def draw_near(
    shape: Sequence[int],
    size: Sequence[int],
    zoom: tuple[float, float],
    flip: float,
    max_shift: float,
    rng: np.random.Generator,
    axis: int | None = None,
) -> tuple[Crop, Crop]:
    """Draw two crops whose centres lie near each other.

    The first is uniform over the scan; the second's centre is moved by up to ``max_shift`` views
    along each axis, less where the scan ends. Slices are of one place along ``axis``.
    """
    first = draw_crop(shape, size, zoom, flip, rng, axis)
    within = np.arange(3) != axis
    shift = rng.uniform(-max_shift, max_shift, 3) * spanned(size, axis) * within
    centre = first.centre_vox + shift
    return first, draw_crop(shape, size, zoom, flip, rng, axis, centre)


def cut_views(
    source: Source,
    crops: Sequence[Crop],
    size: Sequence[int],
    axis: int | None,
    intensity: IntensityConfig,
    rng: np.random.Generator,
) -> Tensor:
    """Views ``(V, C, *size)`` of crops, each changed in intensity on its own."""
    full = spanned(size, axis)
    views = np.empty((len(crops), source.channels, *full), dtype=np.float32)
    for view, crop in zip(views, crops, strict=True):
        view[:] = cut_crop(source, crop, full)
    jitter(views, intensity, rng)
    return torch.from_numpy(views.reshape(len(crops), source.channels, *size))


def places_of(crops: Sequence[Crop]) -> dict[str, Tensor]:
    """``start (V, 3)`` and ``extent (V, 3)`` of crops, in voxels of the scan."""
    return {
        "start": torch.tensor([crop.start for crop in crops]),
        "extent": torch.tensor([crop.extent for crop in crops]),
    }
