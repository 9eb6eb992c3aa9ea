"""Whether two networks compute the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from situs.backbones import Backbone
from situs.errors import ConfigError, SitusError

TOLERANCE = 1e-4
"""Largest difference of two features, as a share of the largest feature."""


def probe_image(backbone: Backbone, scale: int = 2) -> Tensor:
    """A small random image that the backbone takes, ``(1, in_channels, *spatial)``.

    Args:
        backbone: Decides channels and size.
        scale: Voxels at the coarsest scale, along each axis.
    """
    size = tuple(scale * d for d in backbone.divisor)
    try:
        backbone.check_size(size)
    except ConfigError:
        size = tuple(2 * n for n in size)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, backbone.in_channels, *size, generator=generator)


@torch.no_grad()
def insist_same(
    ours: Callable[[Tensor], Sequence[Tensor]],
    theirs: Callable[[Tensor], Sequence[Tensor]],
    image: Tensor,
    target: str,
) -> float:
    """Compare what two networks make of one image.

    Returns:
        The largest difference, as a share of the largest value.

    Raises:
        SitusError: If it is above :data:`TOLERANCE`.
    """
    worst = 0.0
    for a, b in zip(ours(image), theirs(image), strict=True):
        difference = float((a - b).abs().max()) if a.shape == b.shape else float("inf")
        difference /= max(float(a.abs().max()), 1e-12)
        worst = difference if math.isnan(difference) else max(worst, difference)
    if not worst <= TOLERANCE:
        raise SitusError(
            f"the export to {target} does not give the same features (relative difference "
            f"{worst:.1e}); nothing was written. This is a fault of situs, please report it"
        )
    return worst
