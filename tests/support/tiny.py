"""The smallest backbone that has scales, strides and normalisation, and sources to feed it."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from situs.backbones.base import Backbone, BackboneConfig
from situs.views import ArraySource


class _Encoder(nn.Module):
    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv3d(1, 6, 3, padding=1), norm(6, affine=True), nn.GELU())
        self.coarse = nn.Sequential(
            nn.Conv3d(6, 10, 3, stride=2, padding=1), norm(10, affine=True), nn.GELU()
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.fine(x)
        return [fine, self.coarse(fine)]


class TinyBackbone(Backbone):
    spatial_dims, in_channels = 3, 1
    channels, strides = (6, 10), ((1, 1, 1), (2, 2, 2))
    decoder_channels = 6

    def __init__(self, norm: type[nn.Module] = nn.InstanceNorm3d) -> None:
        super().__init__()
        self.encoder = _Encoder(norm)
        self.decoder = nn.ModuleList(
            [nn.ConvTranspose3d(10, 6, 2, stride=2), nn.Conv3d(12, 6, 3, padding=1)]
        )

    @classmethod
    def from_config(cls, config: BackboneConfig) -> TinyBackbone:
        return cls()

    def encode(self, x: Tensor) -> list[Tensor]:
        return self.encoder(x)

    def decode(self, features: list[Tensor]) -> Tensor:
        up, join = self.decoder
        return nn.functional.gelu(join(torch.cat([features[0], up(features[1])], 1)))


def smooth_sources(count: int, shape: tuple[int, int, int], seed: int = 0) -> list[ArraySource]:
    """Smooth random scans of about zero mean and unit spread, each unlike the others."""
    rng = np.random.default_rng(seed)
    scans = []
    for i in range(count):
        array = ndimage.gaussian_filter(rng.standard_normal(shape), 2.0)
        array = (array / array.std()).astype(np.float32)[None]
        affine = np.diag([1.0, 1.5, 2.0, 1.0])
        scans.append(ArraySource(array, affine, key=f"scan-{i}", modality="MR"))
    return scans


def stack(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """What a loader makes of samples."""
    return {key: torch.stack([s[key] for s in samples]) for key in samples[0]}
