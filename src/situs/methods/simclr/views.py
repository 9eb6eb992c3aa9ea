"""Two views of one place of a scan: drawn as parameters first, cut and changed afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from situs.methods.base import Batch
from situs.methods.simclr.config import SimClrConfig
from situs.views.intensity import jitter
from situs.views.source import Source
from situs.views.subvolume import random_start, slice_axis, spanned, start_near


@dataclass(frozen=True)
class Crop:
    """Where a view is cut: first voxel, extent in the scan, and axes along which it is flipped."""

    start: tuple[int, int, int]
    extent: tuple[int, int, int]
    flips: tuple[bool, bool, bool]


def draw_crops(
    shape: Sequence[int], config: SimClrConfig, rng: np.random.Generator, axis: int | None = None
) -> tuple[Crop, Crop]:
    """Draw two crops whose centres lie near each other.

    The first is uniform over the scan; the second's centre is moved by up to ``max_shift`` views
    along each axis, less where the scan ends. Slices are of one place along ``axis``: they are
    neither zoomed, moved nor flipped along it.
    """
    size = np.asarray(spanned(config.view_size, axis))
    within = np.arange(3) != axis
    low, high = np.log(config.zoom)
    zoom = np.exp(rng.uniform(low, high, (2, 1)))
    extents = np.where(within, np.rint(size * zoom).astype(int).clip(min=2), size)
    first = random_start(shape, extents[0].tolist(), rng)
    shift = rng.uniform(-config.max_shift, config.max_shift, 3) * size * within
    centre = np.asarray(first) + extents[0] / 2 + shift
    second = start_near(centre, shape, extents[1].tolist())
    flips = (rng.random((2, 3)) < config.flip) & within
    one, two = (
        Crop(start, (int(e[0]), int(e[1]), int(e[2])), (bool(f[0]), bool(f[1]), bool(f[2])))
        for start, e, f in zip((first, second), extents, flips, strict=True)
    )
    return one, two


def cut(source: Source, crop: Crop, size: Sequence[int]) -> npt.NDArray[np.float32]:
    """Read ``crop`` and resample it to ``size`` by trilinear interpolation, ``(C, *size)``."""
    view = torch.from_numpy(source.read(crop.start, crop.extent))[None]
    if crop.extent != tuple(size):
        view = F.interpolate(view, size=tuple(size), mode="trilinear", align_corners=False)
    flipped = torch.flip(view[0], [axis + 1 for axis in range(3) if crop.flips[axis]])
    return np.ascontiguousarray(flipped.numpy())


def sample_pair(source: Source, config: SimClrConfig, rng: np.random.Generator) -> Batch:
    """Two views of one scan.

    Returns:
        ``views (2, C, *view_size)``; ``start (2, 3)`` and ``extent (2, 3)`` in scan voxels.
    """
    axis = slice_axis(source, len(config.view_size), rng)
    crops = draw_crops(source.shape, config, rng, axis)
    size = spanned(config.view_size, axis)
    views = [jitter(cut(source, c, size), config.intensity, rng) for c in crops]
    return {
        "views": torch.from_numpy(np.stack(views).reshape(2, -1, *config.view_size)),
        "start": torch.tensor([c.start for c in crops]),
        "extent": torch.tensor([c.extent for c in crops]),
    }
