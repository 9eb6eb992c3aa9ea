"""Sub-volumes of a scan and the blocks of them that are hidden."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from situs.errors import ConfigError
from situs.methods.base import Batch
from situs.views.decoded import read_crop
from situs.views.source import Source
from situs.views.subvolume import inside_mask, random_start, slice_axis, spanned

_BLOCK = 8  # voxels: of smaller blocks interpolation rebuilds too much; ours


def fitted_block(asked: Sequence[int] | None, stride: Sequence[int]) -> tuple[int, ...]:
    """The block size asked for, or the smallest multiple of ``stride`` of at least 8 voxels.

    A coarse feature is seen if any voxel under it is: of blocks smaller than a feature's stride
    most or all hidden ones leave a trace, and there is nothing to imagine.

    Raises:
        ConfigError: If blocks of the size asked for do not consist of whole features.
    """
    if asked is None:
        return tuple(s * -(-_BLOCK // s) for s in stride)
    if any(b % s for b, s in zip(asked, stride, strict=True)):
        raise ConfigError(
            f"block_size {tuple(asked)} must be a multiple of the backbone's largest stride "
            f"{tuple(stride)}, or its coarse features see what is hidden; leave block_size out, "
            "or set masking to 'input'"
        )
    return tuple(asked)


def random_blocks(
    grid: Sequence[int], ratio: float, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """``(*grid)``, true at exactly ``round(ratio · blocks)`` random blocks that are hidden.

    At least one block stays visible and at least one is hidden.
    """
    blocks = int(np.prod(grid))
    hidden = min(max(round(ratio * blocks), 1), blocks - 1)
    mask = np.zeros(blocks, dtype=bool)
    mask[rng.choice(blocks, hidden, replace=False)] = True
    return mask.reshape(tuple(grid))


def sample_masked(
    source: Source,
    views: int,
    view_size: Sequence[int],
    block_size: Sequence[int],
    ratio: float,
    rng: np.random.Generator,
    axes: Sequence[int] | None = None,
) -> Batch:
    """Random sub-volumes, or slices, each with its mask.

    Returns:
        ``image (V, C, *view)``; ``hidden (V, *grid)`` boolean, one entry a block; ``inside
        (V, *view)`` boolean, false on padding; ``start (V, 3)`` and ``extent (V, 3)`` first voxel
        and voxels of each view in the scan.
    """
    drawn = [_masked(source, view_size, block_size, ratio, rng, axes) for _ in range(views)]
    return {key: torch.stack([view[key] for view in drawn]) for key in drawn[0]}


def _masked(
    source: Source,
    view_size: Sequence[int],
    block_size: Sequence[int],
    ratio: float,
    rng: np.random.Generator,
    axes: Sequence[int] | None,
) -> Batch:
    axis = slice_axis(source, len(view_size), rng, axes)
    extent = spanned(view_size, axis)
    start = random_start(source.shape, extent, rng)
    image, inside = read_crop(source, start, extent), inside_mask(source.shape, start, extent)
    grid = [v // b for v, b in zip(view_size, block_size, strict=True)]
    return {
        "image": torch.from_numpy(image.reshape(-1, *view_size)),
        "hidden": torch.from_numpy(random_blocks(grid, ratio, rng)),
        "inside": torch.from_numpy(inside.reshape(tuple(view_size))),
        "start": torch.tensor(start),
        "extent": torch.tensor(extent),
    }


def every_view(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """``image``, ``hidden`` and ``inside`` of all views of a batch along one axis, ``B · V``."""
    image, hidden, inside = (batch[key].flatten(0, 1) for key in ("image", "hidden", "inside"))
    return image, hidden, inside


def to_voxels(blocks: Tensor, size: Sequence[int]) -> Tensor:
    """Block values ``(B, *grid)`` at every voxel, ``(B, 1, *size)``, in the same dtype."""
    dense = F.interpolate(blocks[:, None].float(), size=tuple(size), mode="nearest")
    return dense.to(blocks.dtype)
