"""A backbone with one head more: what is fine-tuned, and what predicts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from situs.backbones import Backbone


class Segmenter(nn.Module):
    """A class for every voxel: the decoder's features through a 1×1 convolution.

    A class's weights begin at right angles to those of the others (as A. M. Saxe et al., arXiv
    1312.6120, for deep networks; for a head it is ours). Where two rare classes begin alike, as
    torch's default makes them among few features, the features are told the same of both: the
    network learns that something is there, and often never which (``benchmarks/heads.py``).
    """

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        conv = nn.Conv3d if backbone.spatial_dims == 3 else nn.Conv2d
        self.head = conv(backbone.decoder_channels, classes, kernel_size=1)
        nn.init.orthogonal_(self.head.weight, gain=2)
        nn.init.zeros_(self.head.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *spatial)`` → logits ``(B, classes, *spatial)``."""
        logits: Tensor = self.head(self.backbone(x))
        return logits


class Classifier(nn.Module):
    """Classes of a whole scan: every scale's mean feature, normalised, through a linear layer."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        width = sum(backbone.channels)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *spatial)`` → logits ``(B, classes)``."""
        logits: Tensor = self.head(pooled(self.backbone.encode(x)))
        return logits


def pooled(features: list[Tensor]) -> Tensor:
    """Multi-scale features → ``(B, sum of channels)``, the mean over space at each scale."""
    return torch.cat([f.flatten(2).mean(2) for f in features], dim=1)
