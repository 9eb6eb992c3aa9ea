"""Global views of one place of a scan and local views inside it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from situs.methods.base import Batch
from situs.methods.dino.config import DinoConfig
from situs.views.crops import Crop, cut, draw_crop
from situs.views.intensity import jitter
from situs.views.source import Source
from situs.views.subvolume import slice_axis, spanned


def draw_views(
    source: Source, config: DinoConfig, rng: np.random.Generator
) -> tuple[list[Crop], list[Crop], int | None]:
    """Draw two global crops near each other and local crops centred inside the first.

    The paper draws all crops from one image; scans are larger than images, and views of far
    places should not agree, so that here all lie about one place (ours).

    Returns:
        Global crops, local crops, and the axis that slices are perpendicular to.
    """
    axis = slice_axis(source, len(config.global_size), rng, config.axes)
    within = np.arange(3) != axis
    shape, flip = source.shape, config.flip
    first = draw_crop(shape, config.global_size, config.global_zoom, flip, rng, axis)
    reach = config.max_shift * np.asarray(spanned(config.global_size, axis)) * within
    centre = first.centre_vox + rng.uniform(-1, 1, 3) * reach
    second = draw_crop(shape, config.global_size, config.global_zoom, flip, rng, axis, centre)
    places = first.centre_vox + within * np.asarray(first.extent) * rng.uniform(
        -0.5, 0.5, (config.locals, 3)
    )
    parts = [
        draw_crop(shape, config.local_size, config.local_zoom, flip, rng, axis, place)
        for place in places
    ]
    return [first, second], parts, axis


def sample_views(source: Source, config: DinoConfig, rng: np.random.Generator) -> Batch:
    """Global and local views of one scan.

    Returns:
        ``views (2, C, *global_size)``; ``parts (locals, C, *local_size)``; ``start (2, 3)`` and
        ``extent (2, 3)`` of the global views in scan voxels.
    """
    crops, parts, axis = draw_views(source, config, rng)

    def views(of: list[Crop], size: tuple[int, ...]) -> Tensor:
        voxels = spanned(size, axis)
        made = [jitter(cut(source, crop, voxels), config.intensity, rng) for crop in of]
        stacked = np.array(made, dtype=np.float32)
        return torch.from_numpy(stacked.reshape(len(of), source.channels, *size))

    return {
        "views": views(crops, config.global_size),
        "parts": views(parts, config.local_size),
        "start": torch.tensor([c.start for c in crops]),
        "extent": torch.tensor([c.extent for c in crops]),
    }
