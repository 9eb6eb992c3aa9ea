"""From crops to tokens on the region's grid, and which of them correspond.

Tokens of the coarsest scale, matched where each is the other's nearest, are the paper's (arXiv
2507.02581); grids in three dimensions, and leaving out what looks at padding, are ours.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from situs.backbones.base import Backbone
from situs.errors import ConfigError
from situs.geometry import match_matrix, match_targets
from situs.methods.base import Batch, Network
from situs.methods.passes import few_at_a_time
from situs.methods.projection import pooled
from situs.methods.s2dc.config import S2dcConfig
from situs.methods.s2dc.views import from_crops, token_geometry

_FEW = 27  # tokens of a region: 3 along each axis


class Encoded(NamedTuple):
    """A region's features.

    ``features (B, C, nx, ny, nz)`` of the chosen stage on the region's token grid; ``tokens
    (B, N, D)`` their unit projections; ``crops (B, V, C')`` the pooled features of each crop.
    """

    features: Tensor
    tokens: Tensor
    crops: Tensor


class Problem(NamedTuple):
    """Which tokens correspond, and which pairs count at all; ``(B, N, N)`` each."""

    matches: Tensor
    valid: Tensor


def encode_region(config: S2dcConfig, crops: Tensor, network: Network) -> Encoded:
    """Encode ``crops (B, V, C, *crop)`` and put their tokens back into the region's grid."""
    features = encode_crops(crops.flatten(0, 1), network.backbone)
    stage = features[token_stage(config, network.backbone)].unflatten(0, crops.shape[:2])
    on_grid = from_crops(stage, config.grid)
    tokens = network.heads.tokens(on_grid.flatten(2).mT)
    return Encoded(on_grid, tokens, pooled(features).unflatten(0, crops.shape[:2]))


def encode_crops(crops: Tensor, backbone: Backbone) -> list[Tensor]:
    """Multi-scale features of ``(N, C, *crop)``; a part at a time where no gradient is wanted."""
    return few_at_a_time(backbone.encode, backbone, crops)


def token_stage(config: S2dcConfig, backbone: Backbone) -> int:
    """Index of the encoder's scale whose features are the tokens.

    Raises:
        ConfigError: If the backbone has no such scale.
    """
    stages = len(backbone.channels)
    if config.stage is None and config.max_tokens is None:
        return stages - 1
    if config.stage is None:
        voxels = math.prod(config.region_size)
        most = config.max_tokens or 0
        few = [voxels <= most * math.prod(stride) for stride in backbone.strides]
        return few.index(True) if any(few) else stages - 1
    if not -stages <= config.stage < stages:
        raise ConfigError(
            f"stage must be between {-stages} and {stages - 1} for this backbone, whose stages "
            f"have the strides {backbone.strides}, got {config.stage}"
        )
    return config.stage % stages


def warn_of_tokens(config: S2dcConfig, backbone: Backbone) -> None:
    """Say so where a region has very few tokens, or the last stages would not be trained."""
    count = math.prod(token_grid(config, backbone))
    stage, last = token_stage(config, backbone), len(backbone.channels) - 1
    if stage < last:
        warnings.warn(
            f"tokens are those of stage {stage} of 0–{last}: the stages beyond it get no gradient "
            "from p2p and p2s. Leave 'stage' and 'max_tokens' out to train all of the encoder",
            stacklevel=3,
        )
    elif count < _FEW:
        size = "×".join(map(str, token_vox(config, backbone)))
        warnings.warn(
            f"a region of {config.region_size} voxels has only {count} tokens of {size} voxels, "
            "so that a match says little: take a larger 'grid' or 'crop_size', or a backbone with "
            "smaller strides",
            stacklevel=3,
        )


def token_vox(config: S2dcConfig, backbone: Backbone) -> tuple[int, int, int]:
    """Voxels that a token spans along each axis."""
    x, y, z = backbone.strides[token_stage(config, backbone)]
    return (x, y, z)


def token_grid(config: S2dcConfig, backbone: Backbone) -> tuple[int, int, int]:
    """Tokens of the region along each axis."""
    sizes = zip(config.region_size, token_vox(config, backbone), strict=True)
    x, y, z = (size // token for size, token in sizes)
    return (x, y, z)


def correspondence(config: S2dcConfig, batch: Batch, backbone: Backbone) -> Problem:
    """True correspondences of a batch, and the pairs of which neither token is padding."""
    grid = token_grid(config, backbone)
    # Autocast would round mm to bf16, and the nearest token would often be another one.
    with torch.autocast(batch["affine_mm"].device.type, enabled=False):
        affine, source, moved = token_geometry(batch, token_vox(config, backbone), grid)
        targets = match_targets(affine, grid)
    valid = source[:, :, None] & moved[:, None, :]
    return Problem(match_matrix(targets) & valid, valid)


def slice_tokens(tokens: Tensor, grid: Sequence[int], axis: int | None) -> Tensor:
    """Regroup ``(B, N, D)`` tokens by slice across ``axis``: ``(B·slices, N / slices, D)``."""
    if axis is None:
        return tokens
    by_slice = tokens.unflatten(1, tuple(grid)).movedim(axis + 1, 1)
    return by_slice.flatten(0, 1).flatten(1, 2)


def slice_pairs(pairs: Tensor, grid: Sequence[int], axis: int | None) -> Tensor:
    """The pairs of ``(B, N, N)`` within a slice: ``(B·slices, N / slices, N / slices)``."""
    if axis is None:
        return pairs
    full = pairs.unflatten(2, tuple(grid)).unflatten(1, tuple(grid))
    within = full.diagonal(dim1=axis + 1, dim2=axis + 4).movedim(-1, 1)
    return within.flatten(0, 1).flatten(3, 4).flatten(1, 2)


def top1_accuracy(similarity: Tensor, matches: Tensor, valid: Tensor) -> Tensor:
    """Share of matched source tokens whose most similar moved token is the true one."""
    nearest = torch.where(valid, similarity, -torch.inf).argmax(-1, keepdim=True)
    matched = matches.any(-1)
    right = matches.gather(-1, nearest)[..., 0]
    return (right & matched).sum() / matched.sum().clamp(min=1)
