"""From multi-scale features to one vector a view, and its projection; shared by methods.

Pooling and a perceptron are SimCLR's head (arXiv 2002.05709, section 2.1). Layer normalisation
between its layers is ours, so that batches of any size work; ``"batch"`` is as in the released code
of VoCo (arXiv 2402.17300) and s2dc (arXiv 2507.02581).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from situs.methods.base import Network
from situs.methods.distributed import BatchNorm
from situs.methods.passes import few_at_a_time


def pooled(features: Sequence[Tensor], scales: int = 1) -> Tensor:
    """Global averages of the ``scales`` coarsest features, ``(B, sum of their channels)``."""
    means = [f.flatten(2).mean(-1) for f in features[-scales:]]
    return means[0] if len(means) == 1 else torch.cat(means, dim=1)


def pooled_views(network: Network, views: Tensor, scales: int = 1) -> Tensor:
    """:func:`pooled` features ``(B, V, D)`` of views ``(B, V, C, *spatial)``."""

    def forward(some: Tensor) -> Tensor:
        return pooled(network.backbone.encode(some), scales)

    features = few_at_a_time(forward, network.backbone, views.flatten(0, 1))
    return features.unflatten(0, views.shape[:2])


class Projector(nn.Sequential):
    """The usual projection head: linear layers with normalisation and ReLU between them.

    Args:
        in_features: Of the pooled features.
        hidden: Width of the layers between.
        out_features: Of the embedding.
        layers: Linear layers.
        norm: ``"layer"`` works with batches of any size; ``"batch"`` normalises over what is in
            the batch, without weights and without running statistics, in evaluation too.
        affine: Whether layer normalisation has weights.
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        out_features: int,
        layers: int = 2,
        norm: Literal["layer", "batch"] = "layer",
        affine: bool = True,
    ) -> None:
        parts: list[nn.Module] = []
        for layer in range(layers - 1):
            parts += [
                nn.Linear(hidden if layer else in_features, hidden),
                nn.LayerNorm(hidden, elementwise_affine=affine)
                if norm == "layer"
                else BatchNorm(hidden, affine=False, track_running_stats=False),
                nn.ReLU(),
            ]
        super().__init__(*parts, nn.Linear(hidden if parts else in_features, out_features))

    def forward(self, input: Tensor) -> Tensor:
        """``(…, in_features)`` → ``(…, out_features)``; a batch is all that leads."""
        projected: Tensor = super().forward(input.flatten(0, -2))
        return projected.unflatten(0, input.shape[:-1])
