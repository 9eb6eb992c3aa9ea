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
Mask = npt.NDArray[np.bool_]

# Images share a read while the box about all holds at most this many times what their own hold.
_JOINT = 1.5
_ALIGNED = 1e-6  # voxels
_AT_ONCE = 2**17  # pixels: coordinates, indices and values of so many stay in a core's cache
# A decoded scan begins one voxel before the scan.
_OFFSET = np.array([1.0, 0.0, 0.0])


def resampled(
    source: Source, maps: Floats, shape: tuple[int, int], seen: Mask | None = None
) -> Array:
    """Trilinear images of a scan.

    Small scans are kept decoded from sample to sample; of large ones only boxes about the images
    are read, one for images that lie close together.

    Args:
        source: The scan.
        maps: ``(N, 3, 3)``, in voxels of the scan.
        shape: Rows and columns of an image.
        seen: ``(N, rows, columns)``, pixels to look at; the others are background. All where None.

    Returns:
        ``(N, C, rows, columns)``; outside the scan its background, into which the outermost
        voxels fade as they would into a further one of air.
    """
    images = np.empty((len(maps), source.channels, *shape), dtype=np.float32)
    if seen is not None:
        images[:] = np.asarray(source.background, np.float32)[:, None, None]
    if keepable(source):
        _interpolate(decoded(source), maps + _OFFSET, images, seen)
        return images
    low, high = boxes(maps, shape, source.shape)
    for group in joint_reads(low, high):
        start = low[group].min(0)
        box = source.read(start.tolist(), (high[group].max(0) - start + 1).tolist())
        shifted = maps[group] - np.stack([start, np.zeros(3), np.zeros(3)], axis=-1)
        part = images[group[0] : group[-1] + 1]
        _interpolate(box, shifted, part, None if seen is None else seen[group])
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
    """Images ``(N, C, rows, columns)`` of ``box (C, X, Y, Z)``, whose border goes on."""
    images = np.empty((len(maps), len(box), *shape), dtype=np.float32)
    _interpolate(box, maps, images, None)
    return images


def _interpolate(box: Array, maps: Floats, images: Array, seen: Mask | None) -> None:
    """Fill ``images (N, C, rows, columns)``, part by part and those that lie in slices apart."""
    tensor, place = torch.from_numpy(box), maps[..., 0]
    within = (np.abs(maps[..., 1:]).max(-1) < 1e-9) & (np.abs(place - place.round()) < _ALIGNED)
    axes = np.where(within.any(-1), within.argmax(-1), -1)
    shape = images.shape[2:]
    for axis in np.unique(axes).tolist():
        chosen = np.flatnonzero(axes == axis)
        for some in np.array_split(chosen, -(-len(chosen) * math.prod(shape) // _AT_ONCE)):
            places = _places(maps[some], (shape[0], shape[1]))
            if seen is None:
                images[some] = _between(tensor, places, axis).movedim(0, 1).numpy()
            else:
                pixels = torch.from_numpy(np.flatnonzero(seen[some]))
                picked = [place.flatten().index_select(0, pixels) for place in places]
                part = images[some]
                for channel, values in enumerate(_between(tensor, picked, axis).numpy()):
                    part[:, channel][seen[some]] = values
                images[some] = part


def _places(maps: Floats, shape: tuple[int, int]) -> list[Tensor]:
    """Of each axis the coordinates ``(N, rows, columns)`` of all pixels."""
    rows, columns = shape
    column, row = torch.arange(columns), torch.arange(rows)[:, None]
    origin, right, down = (
        torch.from_numpy(np.ascontiguousarray(maps[..., k].T, dtype=np.float32))[..., None, None]
        for k in range(3)
    )
    return [
        torch.addcmul(o + d * row, r, column.float())
        for o, r, d in zip(origin, right, down, strict=True)
    ]


def _between(box: Tensor, places: list[Tensor], axis: int) -> Tensor:
    """Values ``(C, …)`` of ``box (C, X, Y, Z)`` at ``places``, three times ``(…)``, changed.

    ``grid_sample`` does this too, up to three times as slowly; a gather of each corner is
    vectorised. Along ``axis``, where it is not −1, places are whole voxels.
    """
    channels, *size = box.shape
    steps = [size[1] * size[2], size[2], 1]
    fractions: list[tuple[int, Tensor]] = []
    index = None
    for along, (place, n) in enumerate(zip(places, size, strict=True)):
        if along == axis:
            low = place.round_().clamp_(0, n - 1)
        else:
            low = place.clamp_(0, n - 1).floor().clamp_(max=max(n - 2, 0))
            # Along an axis of a single voxel the next one is itself, with a weight of 0.
            fractions.append((steps[along] if n > 1 else 0, place.sub_(low)))
        voxel = low.to(torch.int32 if box.numel() < 2**31 else torch.int64)
        index = voxel if index is None else index.mul_(n).add_(voxel)
    assert index is not None
    shape, index = index.shape, index.flatten()
    values = torch.empty((channels, *shape))

    def corner(flat: Tensor, number: int) -> Tensor:
        if number == len(fractions):
            return flat.index_select(0, index).view(shape)
        step, fraction = fractions[number]
        near = corner(flat, number + 1)
        return near.lerp_(corner(flat[step:], number + 1), fraction)

    for channel in range(channels):
        values[channel] = corner(box[channel].flatten(), 0)
    return values
