"""Two views of one place of a scan: drawn as parameters first, cut and changed afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from situs.methods.base import Batch
from situs.methods.simclr.config import SimClrConfig
from situs.views.crops import Crop, cut, draw_crop
from situs.views.intensity import jitter
from situs.views.source import Source
from situs.views.subvolume import slice_axis, spanned


def draw_crops(
    shape: Sequence[int], config: SimClrConfig, rng: np.random.Generator, axis: int | None = None
) -> tuple[Crop, Crop]:
    """Draw two crops whose centres lie near each other.

    The first is uniform over the scan; the second's centre is moved by up to ``max_shift`` views
    along each axis, less where the scan ends. Slices are of one place along ``axis``.
    """
    size = config.view_size
    first = draw_crop(shape, size, config.zoom, config.flip, rng, axis)
    within = np.arange(3) != axis
    shift = rng.uniform(-config.max_shift, config.max_shift, 3) * spanned(size, axis) * within
    centre = first.centre_vox + shift
    return first, draw_crop(shape, size, config.zoom, config.flip, rng, axis, centre)


def sample_pair(source: Source, config: SimClrConfig, rng: np.random.Generator) -> Batch:
    """Two views of one scan.

    Returns:
        ``views (2, C, *view_size)``; ``start (2, 3)`` and ``extent (2, 3)`` in scan voxels.
    """
    axis = slice_axis(source, len(config.view_size), rng, config.axes)
    crops = draw_crops(source.shape, config, rng, axis)
    size = spanned(config.view_size, axis)
    views = [jitter(cut(source, c, size), config.intensity, rng) for c in crops]
    return {
        "views": torch.from_numpy(np.stack(views).reshape(2, -1, *config.view_size)),
        "start": torch.tensor([c.start for c in crops]),
        "extent": torch.tensor([c.extent for c in crops]),
    }
