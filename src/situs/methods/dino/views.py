"""Global views of one place of a scan and local views inside it."""

from __future__ import annotations

import numpy as np

from situs.methods.base import Batch
from situs.methods.dino.config import DinoConfig
from situs.views.crops import Crop, cut_views, draw_crop, draw_near, places_of
from situs.views.source import Source
from situs.views.subvolume import slice_axis


def draw_views(
    source: Source, config: DinoConfig, rng: np.random.Generator
) -> tuple[tuple[Crop, Crop], list[Crop], int | None]:
    """Draw two global crops near each other and local crops centred inside the first.

    The paper draws all crops from one image; scans are larger than images, and views of far
    places should not agree, so that here all lie about one place (ours).

    Returns:
        Global crops, local crops, and the axis that slices are perpendicular to.
    """
    shape, size, flip = source.shape, config.global_size, config.flip
    axis = slice_axis(source, len(size), rng, config.axes)
    pair = draw_near(shape, size, config.global_zoom, flip, config.max_shift, rng, axis)
    reach = np.asarray(pair[0].extent) * (np.arange(3) != axis)
    places = pair[0].centre_vox + reach * rng.uniform(-0.5, 0.5, (config.locals, 3))
    parts = [
        draw_crop(shape, config.local_size, config.local_zoom, flip, rng, axis, place)
        for place in places
    ]
    return pair, parts, axis


def sample_views(source: Source, config: DinoConfig, rng: np.random.Generator) -> Batch:
    """Global and local views of one scan.

    Returns:
        ``views (2, C, *global_size)``; ``parts (locals, C, *local_size)``; ``start (2, 3)`` and
        ``extent (2, 3)`` of the global views in scan voxels.
    """
    pair, parts, axis = draw_views(source, config, rng)
    return {
        "views": cut_views(source, pair, config.global_size, axis, config.intensity, rng),
        "parts": cut_views(source, parts, config.local_size, axis, config.intensity, rng),
        **places_of(pair),
    }
