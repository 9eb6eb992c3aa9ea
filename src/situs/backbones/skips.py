"""The decoder of a U-Net, from MONAI's blocks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from monai.networks.blocks.dynunet_block import UnetUpBlock
from torch import Tensor, nn


class SkipDecoder(nn.Module):
    """Transposed convolution and skip connection, coarse to fine.

    Args:
        spatial_dims: 2 or 3.
        channels: Of each scale, fine to coarse.
        steps: Stride from each scale to the next.
        norm: As MONAI takes it.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: Sequence[int],
        steps: Sequence[tuple[int, ...]],
        norm: Any,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            UnetUpBlock(
                spatial_dims,
                coarse,
                fine,
                kernel_size=3,
                stride=1,
                upsample_kernel_size=step,
                norm_name=norm,
            )
            for (fine, coarse), step in reversed(list(zip(pairwise(channels), steps, strict=True)))
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features of all scales, fine to coarse → those of the finest."""
        *skips, x = features
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            x = block(x, skip)
        return x
