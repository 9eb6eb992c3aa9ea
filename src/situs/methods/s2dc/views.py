"""What ``s2dc`` looks at: a region cut into crops, and a moved copy of it cut the same way.

The motion is an affine in mm along the scan's own axes, about the centre of what is moved: it
takes a point's place in the source to its place in the copy. Everything else (where to sample,
which tokens correspond, which are padding) follows from it.

A region in crops and its moved copy are the paper's (arXiv 2507.02581). By default the copy is
sampled from the scan, so that it has no empty corners; that, and padding, is ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from situs.geometry import token_affine, token_centres
from situs.methods.base import Batch
from situs.methods.s2dc.config import S2dcConfig
from situs.methods.s2dc.motion import Affine, Back, draw_motion, moved_copies, moved_crops, to_crops
from situs.tensors import constant
from situs.views.decoded import read_crop
from situs.views.intensity import jitter
from situs.views.source import Source
from situs.views.subvolume import random_start

Array = npt.NDArray[np.float32]


def from_crops(crops: Tensor, grid: Sequence[int]) -> Tensor:
    """Put ``(…, V, C, *crop)`` back into ``(…, C, X, Y, Z)``: undoes :func:`to_crops`."""
    *lead, _, channels, x, y, z = crops.shape
    gx, gy, gz = grid
    n = len(lead)
    order = [*range(n), n + 3, n, n + 4, n + 1, n + 5, n + 2, n + 6]
    parts = crops.reshape(*lead, gx, gy, gz, channels, x, y, z).permute(order)
    return parts.reshape(*lead, channels, gx * x, gy * y, gz * z)


def sample_region(source: Source, config: S2dcConfig, rng: np.random.Generator) -> Batch:
    """A region, its moved copy, and augmented copies of some of its crops.

    Args:
        source: The scan; where it is smaller than the region, it is centred and padded.
        config: Sizes and ranges.
        rng: The only source of randomness.

    Returns:
        ``source`` and ``moved (V, C, *crop)``; ``augmented (G, C, *crop)`` with
        ``augmented_crop (G,)``, the crop each is a copy of; ``affine_mm (4, 4)`` of the motion;
        ``bounds_mm (2, 3)``, the scan's borders about the region's centre; ``spacing_mm (3,)``;
        ``start_vox (3,)``, the region's first voxel.
    """
    size = np.asarray(config.region_size)
    crop = np.asarray(config.crop_size)
    spacing = np.asarray(source.spacing)
    start = np.asarray(random_start(source.shape, size.tolist(), rng))
    crop_mm = crop * spacing

    affine_mm = draw_motion(config.motion, crop_mm, rng)
    source_crops, moved = _region_and_copy(source, config, start, affine_mm)
    jitter(moved[None], config.intensity, rng, dims=3)
    chosen = np.sort(rng.permutation(int(np.prod(config.grid)))[: config.global_crops])
    corners = start + np.stack(np.unravel_index(chosen, config.grid), axis=1) * crop
    middle = start + (size - 1) / 2
    bounds = np.stack([-0.5 - middle, np.asarray(source.shape) - 0.5 - middle]) * spacing
    batch = {
        "source": torch.from_numpy(source_crops),
        "moved": torch.from_numpy(moved),
        "affine_mm": torch.from_numpy(affine_mm).float(),
        "bounds_mm": torch.from_numpy(bounds).float(),
        "spacing_mm": torch.from_numpy(spacing).float(),
        "start_vox": torch.from_numpy(start),
    }
    if config.weights["global"]:
        motions = [draw_motion(config.crop_motion, crop_mm, rng) for _ in corners]
        augmented = moved_copies(source, corners.tolist(), config.crop_size, motions)
        batch["augmented"] = torch.from_numpy(jitter(augmented, config.intensity, rng))
        batch["augmented_crop"] = torch.from_numpy(chosen)
    return batch


def _region_and_copy(
    source: Source, config: S2dcConfig, start: npt.NDArray[np.int64], affine_mm: Affine
) -> tuple[Array, Array]:
    """The region and its moved copy, each cut into crops ``(V, C, *crop)``; of one read."""
    size = np.asarray(config.region_size)
    back = Back.of(affine_mm, source.spacing, start.tolist(), size.tolist())
    if config.copy_of == "region":
        low, last = start - 1, start + size
    else:
        low, last = back.reach(size.tolist(), source.shape)
        low, last = np.minimum(low, start), np.maximum(last, start + size - 1)
    block = read_crop(source, low.tolist(), (last + 1 - low).tolist())
    x, y, z = (slice(s, s + n) for s, n in zip((start - low).tolist(), size.tolist(), strict=True))
    region = to_crops(block[:, x, y, z], config.grid)
    if config.copy_of == "region":  # its border goes on, as the air about it
        for axis, face in itertools.product((1, 2, 3), (0, -1)):
            np.moveaxis(block, axis, 0)[face].T[:] = source.background
    return region, moved_crops(block, back.seen_from(low), size.tolist(), config.grid)


def token_geometry(
    batch: Batch, token_vox: Sequence[int], grid_shape: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Motion in token units, and which tokens look at the scan rather than at padding.

    Args:
        batch: What :func:`sample_region` gave, stacked.
        token_vox: Voxels of a token along each axis.
        grid_shape: Tokens of the region along each axis.

    Returns:
        ``affine (B, 4, 4)`` in tokens about the grid's centre, source to moved copy;
        ``source_inside`` and ``moved_inside (B, N)``: whether the token's centre, or for the
        moved copy the place it came from, lies in the scan.
    """
    token_mm = batch["spacing_mm"] * constant(token_vox, batch["spacing_mm"])
    centres_mm = token_centres(grid_shape, token_mm) * token_mm[:, None]
    back = torch.linalg.inv_ex(batch["affine_mm"]).inverse
    origins_mm = centres_mm @ back[:, :3, :3].mT + back[:, None, :3, 3]
    low, high = batch["bounds_mm"][:, None].unbind(2)

    def inside(points_mm: Tensor) -> Tensor:
        return ((points_mm >= low) & (points_mm <= high)).all(-1)

    return token_affine(batch["affine_mm"], token_mm), inside(centres_mm), inside(origins_mm)
