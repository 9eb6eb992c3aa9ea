"""From multi-scale features to one vector a view; shared by the contrastive methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn


def pooled(features: Sequence[Tensor], scales: int = 1) -> Tensor:
    """Global averages of the ``scales`` coarsest features, ``(B, sum of their channels)``."""
    means = [f.flatten(2).mean(-1) for f in features[-scales:]]
    return means[0] if len(means) == 1 else torch.cat(means, dim=1)


class Projector(nn.Sequential):
    """The usual projection head: linear layers with normalisation and ReLU between them.

    Args:
        in_features: Of the pooled features.
        hidden: Width of the layers between.
        out_features: Of the embedding.
        layers: Linear layers.
        norm: ``"layer"`` works with batches of any size; ``"batch"`` normalises over what is in
            the batch, without weights and without running statistics, in evaluation too.
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        out_features: int,
        layers: int = 2,
        norm: Literal["layer", "batch"] = "layer",
    ) -> None:
        parts: list[nn.Module] = []
        for layer in range(layers - 1):
            parts += [
                nn.Linear(hidden if layer else in_features, hidden),
                nn.LayerNorm(hidden)
                if norm == "layer"
                else nn.BatchNorm1d(hidden, affine=False, track_running_stats=False),
                nn.ReLU(),
            ]
        super().__init__(*parts, nn.Linear(hidden if parts else in_features, out_features))
