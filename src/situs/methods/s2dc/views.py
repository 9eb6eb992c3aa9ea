"""What ``s2dc`` looks at: a region cut into crops, and a moved copy of it cut the same way.

The motion is an affine in mm along the scan's own axes, about the centre of what is moved: it
takes a point's place in the source to its place in the copy. Everything else (where to sample,
which tokens correspond, which are padding) follows from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor

from situs.geometry import token_affine, token_centres
from situs.methods.base import Batch
from situs.methods.s2dc.config import NORMAL_AXIS, MotionConfig, S2dcConfig
from situs.tensors import constant
from situs.views.intensity import jitter
from situs.views.source import ArraySource, Source
from situs.views.subvolume import random_start

Affine = npt.NDArray[np.float64]
Array = npt.NDArray[np.float32]


def draw_motion(
    config: MotionConfig, crop_mm: npt.NDArray[np.float64], rng: np.random.Generator
) -> Affine:
    """A random affine ``(4, 4)`` in mm about a centre: rotated, scaled, then shifted.

    Args:
        config: Ranges.
        crop_mm: ``(3,)`` extent of a crop, of which the shift is a share.
        rng: Source of randomness.
    """
    axis = rng.standard_normal(3)
    angle = np.deg2rad(rng.uniform(-config.rotation_deg, config.rotation_deg))
    scale = np.full(3, rng.uniform(*config.scale))
    shift = rng.uniform(-config.translation, config.translation, 3) * crop_mm
    if config.plane != "volume":
        normal = NORMAL_AXIS[config.plane]
        axis = np.eye(3)[normal]
        scale[normal], shift[normal] = 1.0, 0.0
    affine = np.eye(4)
    turn = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix()
    affine[:3, :3] = turn * scale
    affine[:3, 3] = shift
    return affine


def moved_copy(
    source: Source, start: Sequence[int], size: Sequence[int], affine_mm: Affine
) -> Array:
    """The box ``start``, ``size`` of a copy of the scan that was moved about the box's centre.

    What lies ``x`` mm from the centre in the scan lies ``affine_mm x`` mm from it in the copy.
    Trilinear; air outside the scan. Only the part of the scan that is seen is read.

    Args:
        source: The scan.
        start: First voxel of the box.
        size: Voxels of the box along each axis.
        affine_mm: ``(4, 4)``, along the scan's own axes, about the box's centre.

    Returns:
        ``(C, *size)``.
    """
    spacing = np.asarray(source.spacing)
    centre = (np.asarray(size) - 1) / 2
    # From a voxel of the copy back to a voxel of the scan.
    back = np.linalg.inv(affine_mm)
    matrix = back[:3, :3] * spacing[None, :] / spacing[:, None]
    offset = np.asarray(start) + centre + back[:3, 3] / spacing - matrix @ centre
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in size], indexing="ij"), -1).reshape(-1, 3)
    seen = corners @ matrix.T + offset
    # One voxel of air around the scan is enough: all beyond it is the border of what was read.
    low = np.clip(np.floor(seen.min(0)), -1, np.asarray(source.shape)).astype(int)
    high = np.clip(np.ceil(seen.max(0)) + 1, low + 1, np.asarray(source.shape) + 1).astype(int)
    block = source.read(low.tolist(), (high - low).tolist())
    normal = _kept_axis(matrix)
    if normal is not None:
        return _moved_in_plane(block, matrix, offset - low, size, normal)
    moved = np.empty((block.shape[0], *size), dtype=np.float32)
    for channel, out in zip(block, moved, strict=True):
        ndimage.affine_transform(
            channel,
            matrix,
            offset - low,
            output_shape=tuple(size),
            output=out,
            order=1,
            mode="nearest",
        )
    return moved


def _kept_axis(matrix: Affine) -> int | None:
    """The axis along which nothing moves, whose voxels stay whole voxels; None for no such."""
    for axis in reversed(range(3)):
        line = np.eye(3)[axis]
        if np.allclose(matrix[axis], line, atol=1e-9) and np.allclose(matrix[:, axis], line):
            return axis
    return None


def _moved_in_plane(
    block: Array, matrix: Affine, offset: Affine, size: Sequence[int], normal: int
) -> Array:
    """Bilinear resampling of ``(C, X, Y, Z)`` within planes, all planes of a pixel at once.

    Each pixel's column of voxels along ``normal`` is a weighted sum of four columns: a weighted
    ``embedding_bag``, ten times as fast as one look-up a voxel.
    """
    inside = [axis for axis in range(3) if axis != normal]
    first = round(float(offset[normal]))
    along = np.arange(first, first + size[normal]).clip(0, block.shape[normal + 1] - 1)
    columns = np.moveaxis(block, normal + 1, -1)  # (C, ·, ·, along)
    if not np.array_equal(along, np.arange(columns.shape[-1])):
        columns = columns[..., along]
    rows, cols = (size[axis] for axis in inside)
    pixels = np.stack(np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij"), -1)
    places = pixels @ matrix[np.ix_(inside, inside)].T + offset[inside]
    top = np.array(columns.shape[1:3]) - 1
    places = places.clip(0, top)
    corner = np.minimum(np.floor(places), np.maximum(top - 1, 0)).astype(np.int64)
    (down, across), after = np.moveaxis(places - corner, -1, 0), np.minimum(corner + 1, top)
    indices, weights = [], []
    for i, a in ((corner, 1 - down), (after, down)):
        for j, b in ((corner, 1 - across), (after, across)):
            indices.append(i[..., 0] * columns.shape[2] + j[..., 1])
            weights.append(a * b)
    which = torch.from_numpy(np.stack(indices, -1).reshape(-1, 4))
    share = torch.from_numpy(np.stack(weights, -1).reshape(-1, 4).astype(np.float32))
    out = np.empty((block.shape[0], *size), dtype=np.float32)
    for channel, target in zip(columns, out, strict=True):
        table = torch.from_numpy(np.ascontiguousarray(channel).reshape(-1, size[normal]))
        moved = F.embedding_bag(which, table, mode="sum", per_sample_weights=share)
        target[...] = np.moveaxis(moved.numpy().reshape(rows, cols, -1), -1, normal)
    return out


def to_crops(region: Tensor, grid: Sequence[int]) -> Tensor:
    """Cut ``(…, C, X, Y, Z)`` into ``(…, V, C, *crop)``, flat index order of the grid."""
    *lead, channels, x, y, z = region.shape
    gx, gy, gz = grid
    cut = region.reshape(*lead, channels, gx, x // gx, gy, y // gy, gz, z // gz)
    n = len(lead)
    order = [*range(n), n + 1, n + 3, n + 5, n, n + 2, n + 4, n + 6]
    return cut.permute(order).reshape(*lead, gx * gy * gz, channels, x // gx, y // gy, z // gz)


def from_crops(crops: Tensor, grid: Sequence[int]) -> Tensor:
    """Put ``(…, V, C, *crop)`` back into ``(…, C, X, Y, Z)``; the inverse of :func:`to_crops`."""
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
    region = source.read(start.tolist(), size.tolist())
    seen, at = source, start.tolist()
    if config.copy_of == "region":
        seen = ArraySource(region, np.diag([*spacing, 1.0]), air=source.background)
        at = [0, 0, 0]
    moved = jitter(moved_copy(seen, at, size.tolist(), affine_mm), config.intensity, rng)
    chosen = np.sort(rng.permutation(int(np.prod(config.grid)))[: config.global_crops])
    corners = start + np.stack(np.unravel_index(chosen, config.grid), axis=1) * crop
    augmented = []
    for corner in corners.tolist() if config.weights["global"] else []:
        motion = draw_motion(config.crop_motion, crop_mm, rng)
        copy = moved_copy(source, corner, config.crop_size, motion)
        augmented.append(jitter(copy, config.intensity, rng))

    middle = start + (size - 1) / 2
    bounds = np.stack([-0.5 - middle, np.asarray(source.shape) - 0.5 - middle]) * spacing
    batch = {
        "source": to_crops(torch.from_numpy(region), config.grid),
        "moved": to_crops(torch.from_numpy(moved), config.grid),
        "affine_mm": torch.from_numpy(affine_mm).float(),
        "bounds_mm": torch.from_numpy(bounds).float(),
        "spacing_mm": torch.from_numpy(spacing).float(),
        "start_vox": torch.from_numpy(start),
    }
    if augmented:
        batch["augmented"] = torch.from_numpy(np.stack(augmented))
        batch["augmented_crop"] = torch.from_numpy(chosen)
    return batch


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
