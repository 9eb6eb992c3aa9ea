"""How ``s2dc`` moves a copy of a region or of a crop, and what the copy shows.

The paper (arXiv 2507.02581) moves a region within the axial plane. Motion about any axis in mm, of
voxels that need not be cubes, and copies sampled from the scan instead of the region are ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation

from situs.methods.s2dc.config import NORMAL_AXIS, MotionConfig
from situs.views.decoded import read_crop
from situs.views.resampling import interpolated, joint_reads
from situs.views.source import Source

Affine = npt.NDArray[np.float64]
Array = npt.NDArray[np.float32]

_STILL = 1e-9  # largest entry of a matrix beside a kept axis
_WHOLE = 1e-6  # voxels: what rounding leaves of a whole number of them
_AT_ONCE = 2**20  # voxels of a copy: what they are made of and made into stays in a core's cache


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
    return moved_copies(source, [start], size, [affine_mm])[0]


def moved_copies(
    source: Source,
    starts: Sequence[Sequence[int]],
    size: Sequence[int],
    affines_mm: Sequence[Affine],
) -> Array:
    """Several boxes of one size, each of a copy of its own ``(N, C, *size)``; :func:`moved_copy`.

    Boxes that show the same part of the scan share a read.
    """
    backs = [
        Back.of(affine, source.spacing, start, size)
        for start, affine in zip(starts, affines_mm, strict=True)
    ]
    low, last = map(np.array, zip(*(back.reach(size, source.shape) for back in backs), strict=True))
    copies = []
    for group in joint_reads(low, last):
        first = low[group].min(0)
        block = read_crop(source, first.tolist(), (last[group].max(0) + 1 - first).tolist())
        copies.append(_moved(block, [backs[g].seen_from(first) for g in group], size))
    return copies[0] if len(copies) == 1 else np.concatenate(copies)


class Back(NamedTuple):
    """From voxels of a moved box back to voxels of the scan: ``matrix @ voxel + offset``."""

    matrix: Affine
    offset: Affine

    @classmethod
    def of(
        cls,
        affine_mm: Affine,
        spacing: Sequence[float],
        start: Sequence[int],
        size: Sequence[int],
    ) -> Back:
        """Of a motion about the centre of a box; see :func:`moved_copy`."""
        step = np.asarray(spacing)
        centre = (np.asarray(size) - 1) / 2
        back = np.linalg.inv(affine_mm)
        matrix = back[:3, :3] * step[None, :] / step[:, None]
        return cls(matrix, np.asarray(start) + centre + back[:3, 3] / step - matrix @ centre)

    def seen_from(self, low: npt.NDArray[np.int64]) -> Back:
        """The same, in voxels of a block that begins at ``low``."""
        return Back(self.matrix, self.offset - low)

    def reach(
        self, size: Sequence[int], scan: Sequence[int]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """First and last voxel of the scan that the box shows, at most one beyond it.

        One voxel of air around the scan is enough: all beyond it is the border of what is read.
        """
        spans = self.matrix * (np.asarray(size) - 1)
        ends = np.stack([np.minimum(spans, 0).sum(1), np.maximum(spans, 0).sum(1)]) + self.offset
        low, last = np.clip([np.floor(ends[0]), np.ceil(ends[1])], -1, scan).astype(np.int64)
        return low, np.maximum(low, last)

    @property
    def kept_axis(self) -> int | None:
        """The axis along which nothing moves, whose voxels stay whole voxels; None for no such.

        A shift alone leaves the matrix as it is, but not the voxels.
        """
        apart = np.abs(self.matrix - np.eye(3)) > _STILL
        part = np.abs(self.offset - self.offset.round()) > _WHOLE
        kept = np.flatnonzero(~(apart.any(0) | apart.any(1) | part))
        return int(kept[-1]) if len(kept) else None


def moved_crops(block: Array, back: Back, size: Sequence[int], grid: Sequence[int]) -> Array:
    """A moved box, cut into crops.

    Args:
        block: ``(C, X, Y, Z)``, whose border goes on.
        back: From the box's voxels to the block's.
        size: Voxels of the box along each axis.
        grid: Crops of the box along each axis.

    Returns:
        ``(V, C, *crop)``, flat index order of the grid.
    """
    normal = back.kept_axis
    if normal is not None:
        return _moved_in_plane(block, back, size, grid, normal)
    return to_crops(_moved(block, [back], size)[0], grid)


def _moved(block: Array, backs: Sequence[Back], size: Sequence[int]) -> Array:
    """Moved boxes ``(N, C, *size)`` of one block."""
    if any(back.kept_axis is not None for back in backs):
        copies = [moved_crops(block, back, size, (1, 1, 1)) for back in backs]
        return copies[0] if len(copies) == 1 else np.concatenate(copies)
    # A slice of a copy after the other, as images in the block.
    matrices = np.stack([back.matrix for back in backs])
    offsets = np.stack([back.offset for back in backs])
    maps = np.empty((len(backs), size[0], 3, 3))
    maps[..., 0] = offsets[:, None] + np.arange(size[0])[:, None] * matrices[:, None, :, 0]
    maps[..., 1:] = matrices[:, None, :, [2, 1]]
    images = interpolated(block, maps.reshape(-1, 3, 3), (size[1], size[2]))
    return np.ascontiguousarray(
        np.moveaxis(images.reshape(len(backs), size[0], -1, *size[1:]), 2, 1)
    )


def to_crops(region: Array, grid: Sequence[int]) -> Array:
    """Cut ``(C, X, Y, Z)`` into ``(V, C, *crop)``, flat index order of the grid."""
    channels, *size = region.shape
    shape = [n for g, k in zip(grid, size, strict=True) for n in (g, k // g)]
    cut = region.reshape(channels, *shape).transpose(1, 3, 5, 0, 2, 4, 6)
    return np.ascontiguousarray(cut).reshape(-1, channels, *shape[1::2])


def _moved_in_plane(
    block: Array, back: Back, size: Sequence[int], grid: Sequence[int], normal: int
) -> Array:
    """Bilinear resampling of ``(C, X, Y, Z)`` within planes, all planes of a pixel at once.

    Each pixel's column of voxels along ``normal`` is a weighted sum of four columns: a weighted
    ``embedding_bag``, ten times as fast as one look-up a voxel.
    """
    across = [axis for axis in range(3) if axis != normal]
    columns = np.ascontiguousarray(np.moveaxis(block, normal + 1, -1))  # (C, ·, ·, along)
    first, depth = round(float(back.offset[normal])), columns.shape[-1]
    along: slice | npt.NDArray[np.int64] = slice(first, first + size[normal])
    if first < 0 or first + size[normal] > depth:
        along = np.arange(first, first + size[normal]).clip(0, depth - 1)
    crop = [n // g for n, g in zip(size, grid, strict=True)]
    crops = np.empty((*grid, len(block), *crop), dtype=np.float32)
    # Of each channel: crops and their lines, crops and their columns, crops and their planes.
    order = [3, *(at for axis in (*across, normal) for at in (axis, 4 + axis))]
    into = crops.transpose(order)
    cols, height = size[across[1]], crop[across[0]]
    step = max(1, _AT_ONCE // (cols * depth))
    for row, begin in itertools.product(range(grid[across[0]]), range(0, height, step)):
        lines = np.arange(begin, min(begin + step, height))
        which, share = _corners(row * height + lines, cols, back, across, columns.shape[1:3])
        for channel, crops_of in zip(columns, into, strict=True):
            table = torch.from_numpy(channel.reshape(-1, depth))
            moved = F.embedding_bag(which, table, mode="sum", per_sample_weights=share).numpy()
            target = crops_of[row, lines[0] : lines[-1] + 1]
            target[...] = moved[:, along].reshape(target.shape)
    return crops.reshape(-1, len(block), *crop)


def _corners(
    rows: npt.NDArray[np.int64],
    cols: int,
    back: Back,
    across: Sequence[int],
    shape: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each pixel of some rows the four columns about it, by number, and their shares."""
    corners, shares = [], []
    for axis, n in zip(across, shape, strict=True):
        along_row, along_column = back.matrix[axis, across[0]], back.matrix[axis, across[1]]
        place = (rows * along_row + back.offset[axis])[:, None] + np.arange(cols) * along_column
        np.clip(place, 0, n - 1, out=place)
        corner = np.minimum(place.astype(np.int64), max(n - 2, 0))  # it is not negative
        shares.append((place - corner).astype(np.float32))
        corners.append(corner)
    which = np.empty((*shares[0].shape, 4), dtype=np.int64)
    share = np.empty(which.shape, dtype=np.float32)
    # Along an axis of a single voxel the next one is itself, with a share of 0.
    down, right = (shape[1] if shape[0] > 1 else 0), int(shape[1] > 1)
    which[..., 0] = corners[0] * shape[1] + corners[1]
    for number, add in enumerate((right, down, down + right), 1):
        np.add(which[..., 0], add, out=which[..., number])
    np.multiply(shares[0], shares[1], out=share[..., 3])
    np.subtract(shares[0], share[..., 3], out=share[..., 2])
    np.subtract(shares[1], share[..., 3], out=share[..., 1])
    np.subtract(1 - shares[0], share[..., 1], out=share[..., 0])
    return torch.from_numpy(which).view(-1, 4), torch.from_numpy(share).view(-1, 4)
