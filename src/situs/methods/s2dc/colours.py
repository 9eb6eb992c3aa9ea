"""Features as colours: the first three principal components as red, green and blue."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def principal_colours(near: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
    """Three principal components of the near features, as colours of both.

    Args:
        near: ``(B, C, nx, ny, nz)``; directions are scaled to unit length first.
        far: Same shape; shown with the components and range of ``near``.

    Returns:
        ``(B, nx, ny, nz, 3)`` each, in [0, 1].
    """
    unit = [nn.functional.normalize(f.float(), dim=1).movedim(1, -1) for f in (near, far)]
    flat = unit[0].flatten(0, -2)
    mean = flat.mean(0)
    _, vectors = torch.linalg.eigh((flat - mean).mT @ (flat - mean))
    axes = vectors[:, -3:].flip(1)
    axes = nn.functional.pad(axes, (0, 3 - axes.shape[1]))
    # The sign of an eigenvector is arbitrary; fixing it keeps colours between observations.
    axes = axes * torch.sign(axes.gather(0, axes.abs().argmax(0, keepdim=True)))
    values = (flat - mean) @ axes
    low, high = np.percentile(values.cpu().numpy(), [2, 98], axis=0)
    start, extent = values.new_tensor(low), values.new_tensor(np.maximum(high - low, 1e-12))
    here, there = (((((u - mean) @ axes) - start) / extent).clamp(0, 1) for u in unit)
    return here, there
