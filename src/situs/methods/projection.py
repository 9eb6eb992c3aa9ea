"""From multi-scale features to one vector a view; shared by the contrastive methods."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def pooled(features: Sequence[Tensor], scales: int = 1) -> Tensor:
    """Global averages of the ``scales`` coarsest features, ``(B, sum of their channels)``."""
    return torch.cat([f.flatten(2).mean(-1) for f in features[-scales:]], dim=1)


class Projector(nn.Sequential):
    """The usual two-layer projection head; without batch statistics, so small batches work."""

    def __init__(self, in_features: int, hidden: int, out_features: int) -> None:
        super().__init__(
            nn.Linear(in_features, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, out_features),
        )
