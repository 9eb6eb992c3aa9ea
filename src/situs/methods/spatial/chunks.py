"""Cutting chunks out of dense feature maps, all pairs at once.

Where chunks lie on the line of centres is the paper's (arXiv 2509.05967); rounding that is the same
in both directions, and one gather for all pairs instead of a loop, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from situs.geometry import chunk_offsets
from situs.tensors import constant


def chunk_starts(gaps_vox: Tensor, view_size: Sequence[int], chunk_size: Sequence[int]) -> Tensor:
    """First voxels, inside their views, of the four chunks of each pair (i, j).

    Args:
        gaps_vox: ``(…, 3)`` centre of j minus centre of i, in voxels.
        view_size: Voxels of a view.
        chunk_size: Voxels of a chunk.

    Returns:
        ``(…, 4, 3)`` integers, always inside ``[0, view − chunk]``: in i towards j, in j towards
        i, in i away from j, in j away from i. The first two are the adjacent pair, the last two
        the distant one.
    """
    offset = chunk_offsets(gaps_vox, view_size, chunk_size)
    sizes = zip(view_size, chunk_size, strict=True)
    room = constant([view - chunk for view, chunk in sizes], offset, torch.long)
    # Rounded towards the view's outside, the same way in both directions of a pair.
    towards = (room / 2 + offset).round().long()
    towards = torch.minimum(towards.clamp(min=0), room)
    away = room - towards
    return torch.stack([towards, away, away, towards], dim=-2)


def cut_chunks(
    features: Tensor, which: Tensor, starts: Tensor, chunk_size: Sequence[int]
) -> Tensor:
    """Chunks out of feature maps with one gather.

    Args:
        features: ``(N, C, X, Y, Z)``.
        which: ``(K,)`` the feature map that each chunk is cut from.
        starts: ``(K, 3)`` first voxel of each chunk.
        chunk_size: Voxels of a chunk.

    Returns:
        ``(K, C, *chunk_size)``.
    """
    _, channels, _, y, z = features.shape
    grid = torch.meshgrid(
        *(torch.arange(size, device=features.device) for size in chunk_size), indexing="ij"
    )
    voxel = starts[:, None, :] + torch.stack(grid, dim=-1).reshape(-1, 3)
    flat = (voxel[..., 0] * y + voxel[..., 1]) * z + voxel[..., 2]
    chunks = features.flatten(2)[which[:, None], :, flat]
    return chunks.transpose(1, 2).reshape(len(which), channels, *chunk_size)
