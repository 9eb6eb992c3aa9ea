"""Reconstruction error on hidden voxels, normalised per block.

Squared error on hidden places only, and targets normalised by block, are the papers' (He et al.,
arXiv 2111.06377, section 4.1; SparK takes them over). Leaving out what lies outside the scan, and
the least deviation of a block, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from situs.methods.distributed import divisor

# Relative to intensities of about unit spread; keeps flat background from being blown up.
_EPSILON = 1e-3


def to_blocks(x: Tensor, block_size: Sequence[int]) -> Tensor:
    """Cut ``(B, C, *spatial)`` into ``(B, N, C, block voxels)``, blocks in C order of the grid."""
    return _cut(x, block_size).flatten(3)


def from_blocks(blocks: Tensor, block_size: Sequence[int], size: Sequence[int]) -> Tensor:
    """Undo :func:`to_blocks`."""
    batch, _, channels, _ = blocks.shape
    dims = len(block_size)
    grid = [s // k for s, k in zip(size, block_size, strict=True)]
    x = blocks.reshape(batch, *grid, channels, *block_size)
    pairs = [axis for d in range(dims) for axis in (1 + d, 2 + dims + d)]
    return x.permute(0, 1 + dims, *pairs).reshape(batch, channels, *size)


def block_statistics(image: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each block over the voxels inside the scan.

    Args:
        image: ``(B, N, C, P)`` as :func:`to_blocks` gives.
        inside: ``(B, N, 1, P)`` boolean.

    Returns:
        Both ``(B, N, C, 1)``.
    """
    weight = inside.to(image.dtype)
    count = weight.sum(-1, keepdim=True).clamp_min(1)
    mean = (image * weight).sum(-1, keepdim=True) / count
    variance = ((image - mean).square() * weight).sum(-1, keepdim=True) / count
    return mean, (variance + _EPSILON**2).sqrt()


def reconstruction(
    predicted: Tensor,
    image: Tensor,
    hidden: Tensor,
    inside: Tensor,
    block_size: Sequence[int],
    normalise: bool = True,
) -> Tensor:
    """Mean squared error on hidden voxels that lie inside the scan.

    With ``normalise`` the target of each block has zero mean and unit deviation, so that fine
    structure counts as much in dark as in bright places (He et al., "Masked Autoencoders Are
    Scalable Vision Learners", arXiv 2111.06377, section 4.1, "reconstruction target").

    Args:
        predicted: ``(B, C, *spatial)``, in units of the (normalised) target.
        image: ``(B, C, *spatial)``.
        hidden: ``(B, *grid)`` boolean.
        inside: ``(B, *spatial)`` boolean.
        block_size: Voxels of a block along each axis; grid · block = spatial.
        normalise: See above.

    Returns:
        Scalar; 0 where no hidden voxel is inside.
    """
    target = to_blocks(image.float(), block_size)
    here = to_blocks(inside[:, None], block_size)
    if normalise:
        mean, deviation = block_statistics(target, here)
        target = (target - mean) / deviation
    counts = here & hidden.flatten(1)[:, :, None, None]
    squared = (to_blocks(predicted.float(), block_size) - target).square()
    return (squared * counts).sum() / (divisor(counts.sum()) * image.shape[1])


def denormalise(predicted: Tensor, image: Tensor, inside: Tensor, block: Sequence[int]) -> Tensor:
    """Predictions back in intensities, with each block's true mean and deviation.

    These come from the image itself: a network trained on normalised blocks says nothing about
    them, and the picture must not pretend otherwise.
    """
    mean, deviation = block_statistics(to_blocks(image, block), to_blocks(inside[:, None], block))
    blocks = to_blocks(predicted, block) * deviation + mean
    return from_blocks(blocks, block, image.shape[2:])


def _cut(x: Tensor, block_size: Sequence[int]) -> Tensor:
    batch, channels, *size = x.shape
    grid = [s // k for s, k in zip(size, block_size, strict=True)]
    pairs = [n for pair in zip(grid, block_size, strict=True) for n in pair]
    cut = x.reshape(batch, channels, *pairs)
    dims = len(block_size)
    # Batch, the grid's axes, channels, the axes inside a block.
    order = (0, *range(2, 2 + 2 * dims, 2), 1, *range(3, 3 + 2 * dims, 2))
    return torch.permute(cut, order).reshape(batch, -1, channels, *block_size)
