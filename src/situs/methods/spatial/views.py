"""What ``spatial`` looks at: V sub-volumes of one scan, with their true centres.

Sub-volumes whose centres are known are the paper's (arXiv 2509.05967); what is done along axes that
are shorter than a view, and the length that gaps are divided by, are ours.
"""

from __future__ import annotations

import numpy as np
import torch

from situs.methods.base import Batch
from situs.methods.spatial.config import SpatialConfig
from situs.views.decoded import read_crop
from situs.views.intensity import jitter
from situs.views.source import Source


def sample_views(source: Source, config: SpatialConfig, rng: np.random.Generator) -> Batch:
    """Draw V sub-volumes uniformly over a scan.

    A view stays inside the scan along every axis that is long enough for it. Along a shorter
    axis it covers the whole scan, padded with air, and the scan lies in the middle of every
    view: a border that moved would tell the gap without anatomy.

    Args:
        source: The scan.
        config: Sizes and intensity changes.
        rng: The only source of randomness.

    Returns:
        ``views (V, C, *view_size)``; ``start_vox (V, 3)`` first voxels; ``centers_vox`` and
        ``centers_mm (V, 3)``, in the scan's own axes (voxels times spacing), so that moving the
        scan in the world changes nothing; ``spacing_mm (3,)``.
    """
    size = np.asarray(config.view_size)
    room = np.asarray(source.shape) - size
    middle = -(-room // 2)
    start_vox = rng.integers(
        np.minimum(middle, 0), np.maximum(room, middle), (config.views, 3), "int64", True
    )
    views = np.stack([read_crop(source, start.tolist(), config.view_size) for start in start_vox])
    jitter(views, config.intensity, rng)
    centers_vox = start_vox + (size - 1) / 2
    spacing_mm = np.asarray(source.spacing)
    return {
        "views": torch.from_numpy(views),
        "start_vox": torch.from_numpy(start_vox),
        "centers_vox": torch.from_numpy(centers_vox.astype(np.float32)),
        "centers_mm": torch.from_numpy((centers_vox * spacing_mm).astype(np.float32)),
        "spacing_mm": torch.from_numpy(spacing_mm.astype(np.float32)),
    }


def gap_spread_mm(sources: list[Source], config: SpatialConfig) -> tuple[float, float, float]:
    """Standard deviation of the gaps that uniform draws give, per axis, median over scans.

    The difference of two uniform draws from a range r has standard deviation r / √6. Axes
    along which no scan leaves room get the spacing, so that nothing is divided by zero.
    """
    rooms = [
        np.maximum(np.asarray(s.shape) - config.view_size, 0) * np.asarray(s.spacing)
        for s in sources
    ]
    floor = np.median([s.spacing for s in sources], axis=0)
    x, y, z = np.maximum(np.median(rooms, axis=0) / np.sqrt(6), floor).tolist()
    return (x, y, z)
