"""Images interpolated between the voxels of a scan, at places that lie on affine grids.

A set of images is given by its ``maps (N, 3, 3)``: of each voxel axis the coordinate of pixel
(0, 0), the step by a column and that by a row. A moved copy of a volume is a set of its slices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from situs.views.decoded import decoded, keepable
from situs.views.source import Source

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

# Images share a read while the box about all holds at most this many times what their own hold.
_JOINT = 1.5
_ALIGNED = 1e-6  # voxels
_AT_ONCE = 2**17  # pixels: coordinates, indices and values of so many stay in a core's cache
# A decoded scan begins one voxel before the scan.
_OFFSET = np.array([1.0, 0.0, 0.0])


def resampled(source: Source, maps: Floats, shape: tuple[int, int]) -> Array:
    """Trilinear images of a scan.

    Small scans are kept decoded from sample to sample; of large ones only boxes about the images
    are read, one for images that lie close together.

    Args:
        source: The scan.
        maps: ``(N, 3, 3)``, in voxels of the scan.
        shape: Rows and columns of an image.

    Returns:
        ``(N, C, rows, columns)``; outside the scan its background, into which the outermost
        voxels fade as they would into a further one of air.
    """
    if keepable(source):
        return interpolated(decoded(source), maps + _OFFSET, shape)
    images = np.empty((len(maps), source.channels, *shape), dtype=np.float32)
    low, high = boxes(maps, shape, source.shape)
    for group in joint_reads(low, high):
        start = low[group].min(0)
        box = source.read(start.tolist(), (high[group].max(0) - start + 1).tolist())
        shifted = maps[group] - np.stack([start, np.zeros(3), np.zeros(3)], axis=-1)
        images[group] = interpolated(box, shifted, shape)
    return images


def boxes(
    maps: Floats, shape: tuple[int, int], scan: Sequence[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and last voxel ``(N, 3)`` that each image needs, at most one beyond the scan."""
    spans = maps[..., 1:] * [shape[1] - 1, shape[0] - 1]
    low = maps[..., 0] + np.minimum(spans, 0).sum(-1)
    high = maps[..., 0] + np.maximum(spans, 0).sum(-1)
    # Rounding may put a pixel that lies on a voxel a hair before it.
    first = np.floor(np.clip(low + _ALIGNED, -1, scan)).astype(np.int64)
    last = np.ceil(np.clip(high - _ALIGNED, -1, scan)).astype(np.int64)
    return first, np.maximum(first, last)


def joint_reads(low: npt.NDArray[np.int64], high: npt.NDArray[np.int64]) -> list[list[int]]:
    """Boxes that are read together, in order: those that lie close to each other.

    Args:
        low: ``(N, 3)`` first voxels.
        high: ``(N, 3)`` last voxels.
    """
    groups: list[list[int]] = []
    for box in range(len(low)):
        if groups:
            joint = [*groups[-1], box]
            apart = np.prod(high[joint] - low[joint] + 1, axis=-1).sum()
            if np.prod(high[joint].max(0) - low[joint].min(0) + 1) <= _JOINT * apart:
                groups[-1] = joint
                continue
        groups.append([box])
    return groups


def interpolated(box: Array, maps: Floats, shape: tuple[int, int]) -> Array:
    """Images ``(N, C, rows, columns)`` of ``box (C, X, Y, Z)``, whose border goes on.

    Those that lie in slices of the box are told apart: they need half as many voxels.
    """
    tensor, place, steps = torch.from_numpy(box), maps[..., 0], np.abs(maps[..., 1:]).max(-1)
    within = (steps < 1e-9) & (np.abs(place - place.round()) < _ALIGNED)
    axes = np.where(within.any(-1), within.argmax(-1), -1)
    at_once = max(1, _AT_ONCE // math.prod(shape))
    if len(maps) <= at_once and (axes == axes[0]).all():
        return _between(tensor, maps, shape, int(axes[0])).movedim(0, 1).contiguous().numpy()
    images = np.empty((len(maps), len(box), *shape), dtype=np.float32)
    for axis in set(axes.tolist()):
        chosen = np.flatnonzero(axes == axis)
        for start in range(0, len(chosen), at_once):
            some = chosen[start : start + at_once]
            images[some] = _between(tensor, maps[some], shape, axis).movedim(0, 1).numpy()
    return images


def _between(box: Tensor, maps: Floats, shape: tuple[int, int], axis: int) -> Tensor:
    """Values ``(C, N, rows, columns)`` of ``box (C, X, Y, Z)``.

    ``grid_sample`` does this too, in slices as fast and in volumes up to three times as slowly; a
    gather of each corner is vectorised. Along ``axis``, where it is not −1, places are whole
    voxels.
    """
    channels, *size = box.shape
    steps = [size[1] * size[2], size[2], 1]
    between = [along for along in range(3) if along != axis]
    places = _places(maps[:, between], shape)
    lows = torch.empty_like(places)
    for along, place, low in zip(between, places.unbind(), lows.unbind(), strict=True):
        n = size[along]
        torch.floor(place.clamp_(0, n - 1), out=low).clamp_(max=max(n - 2, 0))
    fractions = places.sub_(lows).view(len(between), -1).unbind()
    voxels = lows.to(torch.int32 if box.numel() < 2**31 else torch.int64).unbind()
    index = voxels[0].mul_(steps[between[0]])
    for along, voxel in zip(between[1:], voxels[1:], strict=True):
        index.add_(voxel, alpha=steps[along])
    if axis >= 0:
        whole = maps[:, axis, 0].round().clip(0, size[axis] - 1).astype(np.int64) * steps[axis]
        index.add_(torch.from_numpy(whole).to(index.dtype)[:, None, None])
    flat_index = index.flatten()
    # Along an axis of a single voxel the next one is itself, with a weight of 0.
    nexts = [steps[along] if size[along] > 1 else 0 for along in between]

    def corner(flat: Tensor, number: int) -> Tensor:
        if number == len(between):
            return flat.index_select(0, flat_index)
        near = corner(flat, number + 1)
        return near.lerp_(corner(flat[nexts[number] :], number + 1), fractions[number])

    values = torch.stack([corner(box[channel].flatten(), 0) for channel in range(channels)])
    return values.view(channels, *index.shape)


def _places(maps: Floats, shape: tuple[int, int]) -> Tensor:
    """Coordinates ``(A, N, rows, columns)`` of all pixels along A axes, ``maps (N, A, 3)``."""
    origin, right, down = np.ascontiguousarray(maps.transpose(2, 1, 0))[..., None]
    first = (origin + down * np.arange(shape[0])).astype(np.float32)
    step = (right * np.arange(shape[1])).astype(np.float32)
    return torch.from_numpy(first)[..., :, None] + torch.from_numpy(step)[..., None, :]
