"""Frozen features of voxels and of scans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from situs.backbones import Backbone
from situs.geometry.stacks import stack_axis
from situs.transfer.cases import PreparedCase
from situs.transfer.networks import pooled
from situs.transfer.patches import Framing
from situs.transfer.windows import pad_to

_LARGEST_TILE = {2: 512, 3: 96}
"""Voxels along each axis that are encoded at once; small scans are encoded whole."""
_SLICES_AT_ONCE = 16


def slice_axis_of(backbone: Backbone, cases: Sequence[PreparedCase]) -> int | None:
    """The axis that a 2D network's slices are perpendicular to; None for a 3D network.

    Slices lie as they were acquired, across the stack's own axis. Isotropic scans are cut into
    axial slices.
    """
    if backbone.spatial_dims == 3:
        return None
    shape = np.median([case.shape for case in cases], axis=0)
    spacing = np.median([case.spacing for case in cases], axis=0)
    axis = stack_axis(shape.tolist(), spacing.tolist())
    return 2 if axis is None else axis


@torch.no_grad()
def voxel_features(
    backbone: Backbone,
    image: npt.NDArray[np.float32],
    voxels: npt.NDArray[np.int64],
    slice_axis: int | None = None,
    background: Sequence[float] = (0.0,),
) -> npt.NDArray[np.float32]:
    """What all scales say at some voxels, interpolated between feature centres.

    Args:
        backbone: In ``eval`` mode, on any device.
        image: ``(C, X, Y, Z)``.
        voxels: ``(N, 3)`` places.
        slice_axis: For a 2D backbone.
        background: What lies outside the scan, one value a channel.

    Returns:
        ``(N, sum of channels)``.
    """
    framing = Framing((), slice_axis)
    device = next(backbone.parameters()).device
    batch = framing.to_batch(torch.from_numpy(image))
    places = torch.from_numpy(voxels)
    number = places[:, slice_axis] if slice_axis is not None else torch.zeros(len(places)).long()
    inside = places[:, list(framing.axes)]
    result = torch.zeros(len(places), sum(backbone.channels))
    for start, size in _tiles(batch.shape[2:], backbone):
        stop = torch.tensor(start) + torch.tensor(size)
        here = ((inside >= torch.tensor(start)) & (inside < stop)).all(1)
        for chosen in number[here].unique().split(_SLICES_AT_ONCE):
            area = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
            tile = batch[(chosen, slice(None), *area)]
            padded, shift = _padded(tile.to(device), backbone, background)
            features = backbone.encode(padded)
            for k, item in enumerate(chosen.tolist()):
                rows = here & (number == item)
                points = inside[rows] - torch.tensor(start) + shift
                result[rows] = _at(features, k, points.to(device), padded.shape[2:]).cpu()
    return result.numpy()


@torch.no_grad()
def scan_feature(
    backbone: Backbone,
    image: npt.NDArray[np.float32],
    slice_axis: int | None = None,
    background: Sequence[float] = (0.0,),
) -> npt.NDArray[np.float32]:
    """The mean feature of a scan at every scale, ``(sum of channels,)``.

    Args:
        backbone: In ``eval`` mode, on any device.
        image: ``(C, X, Y, Z)``.
        slice_axis: For a 2D backbone.
        background: What lies outside the scan, one value a channel.
    """
    device = next(backbone.parameters()).device
    batch = Framing((), slice_axis).to_batch(torch.from_numpy(image))
    total, count = torch.zeros(sum(backbone.channels)), 0
    for start, size in _tiles(batch.shape[2:], backbone):
        area = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        for part in batch[(slice(None), slice(None), *area)].split(_SLICES_AT_ONCE):
            padded, _ = _padded(part.to(device), backbone, background)
            features = pooled(backbone.encode(padded)).cpu()
            total, count = total + features.sum(0), count + len(features)
    return np.asarray((total / count).numpy(), dtype=np.float32)


def _tiles(
    shape: Sequence[int], backbone: Backbone
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Start and size of blocks that partition ``shape``."""
    limit = _LARGEST_TILE[backbone.spatial_dims]
    pieces = [np.array_split(np.arange(n), -(-n // limit)) for n in shape]
    for corner in np.ndindex(*map(len, pieces)):
        block = [pieces[axis][i] for axis, i in enumerate(corner)]
        yield tuple(int(b[0]) for b in block), tuple(len(b) for b in block)


def _padded(tile: Tensor, backbone: Backbone, background: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The tile padded to what the network needs, and where its first voxel went."""
    cells = [-(-n // d) for n, d in zip(tile.shape[2:], backbone.divisor, strict=True)]
    if np.prod(cells) < backbone.min_coarse_voxels:
        cells = [2] * len(cells)
    size = [n * d for n, d in zip(cells, backbone.divisor, strict=True)]
    shift = [(s - n) // 2 for s, n in zip(size, tile.shape[2:], strict=True)]
    return pad_to(tile, size, background), torch.tensor(shift)


def _at(features: Sequence[Tensor], item: int, points: Tensor, shape: Sequence[int]) -> Tensor:
    """Features of one item of a batch at ``(P, D)`` voxels, all scales side by side."""
    # grid_sample: borders at ±1, the fastest axis first.
    grid = ((2 * points + 1) / torch.tensor(shape, device=points.device) - 1).flip(-1).float()
    grid = grid.reshape(1, -1, *(1,) * (points.shape[1] - 1), points.shape[1])
    sampled = [
        F.grid_sample(f[item : item + 1], grid, align_corners=False, padding_mode="border")
        for f in features
    ]
    return torch.cat([s.flatten(2)[0].T for s in sampled], dim=1)
