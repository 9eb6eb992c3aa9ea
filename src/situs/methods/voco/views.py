"""A region tiled by base crops, and random crops with their overlaps.

Bases that tile a region and crops anywhere in it are the paper's (arXiv 2402.17300, section 3);
regions of scans of any size, padded, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from situs.methods.base import Batch
from situs.methods.voco.config import VocoConfig
from situs.views.decoded import read_crop
from situs.views.intensity import jitter
from situs.views.source import Source
from situs.views.subvolume import random_start


def base_starts(grid: Sequence[int], crop_size: Sequence[int]) -> npt.NDArray[np.int64]:
    """First voxels ``(K, 3)`` of the base crops inside their region, in C order of the grid."""
    cells = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, 3)
    return np.asarray(cells * np.asarray(crop_size), dtype=np.int64)


def overlaps(
    starts: npt.NDArray[np.int64], bases: npt.NDArray[np.int64], crop_size: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Share of each crop's volume that lies in each base crop of the same size.

    Args:
        starts: ``(R, 3)`` first voxels of crops.
        bases: ``(K, 3)`` first voxels of base crops.
        crop_size: Voxels along each axis.

    Returns:
        ``(R, K)``; rows sum to 1 for crops inside the region.
    """
    size = np.asarray(crop_size)
    common = size - np.abs(starts[:, None] - bases)
    share: npt.NDArray[np.float64] = (common.clip(min=0) / size).prod(-1)
    return share


def sample_region(source: Source, config: VocoConfig, rng: np.random.Generator) -> Batch:
    """Base crops and random crops of one region.

    Returns:
        ``views (K + R, C, *seen_size)``, bases first; ``overlap (R, K)``;
        ``start (K + R, 3)`` first voxels in the scan.
    """
    size = np.asarray(config.crop_size)
    region = size * config.grid
    corner = np.asarray(random_start(source.shape, region.tolist(), rng))
    bases = base_starts(config.grid, config.crop_size)
    crops = rng.integers(0, region - size, (config.crops, 3), endpoint=True)
    starts = np.concatenate([bases, crops]) + corner
    block = read_crop(source, corner.tolist(), region.tolist())
    cut = np.stack([_slice(block, s, config.crop_size) for s in starts - corner])
    views = torch.from_numpy(jitter(cut, config.intensity, rng))
    if config.seen_size != config.crop_size:
        views = F.interpolate(views, size=config.seen_size, mode="trilinear", align_corners=False)
    return {
        "views": views,
        "overlap": torch.from_numpy(overlaps(crops, bases, config.crop_size)).float(),
        "start": torch.from_numpy(starts),
    }


def _slice(
    block: npt.NDArray[np.float32], start: npt.NDArray[np.int64], size: Sequence[int]
) -> npt.NDArray[np.float32]:
    x, y, z = (slice(int(s), int(s) + k) for s, k in zip(start, size, strict=True))
    return block[:, x, y, z]
