"""What ``spatial`` trains besides the backbone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from situs.methods.base import Network
from situs.methods.normalising import GroupNorm
from situs.methods.passes import few_at_a_time
from situs.methods.precision import at_least_single
from situs.methods.spatial.config import SpatialConfig


def _embedder(channels: int, width: int, strided: int, cells: int) -> nn.Sequential:
    """Strided convolutions, pooling, a projection: ``(N, C, *spatial)`` → ``(N, width)``.

    Pooling leaves ``cells`` places along each axis: where in a view its structures lie is what
    tells the place of the view. The projection lets entries be negative: means of activations
    all point the same way, and their cosines would start, and stay, near 1. Strided convolutions
    and pooling are the paper's; more than one cell, and the projection, are ours.
    """
    # MONAI takes seconds to import, and `situs methods` lists what it does not build.
    from monai.networks.blocks import Convolution  # noqa: PLC0415 - MONAI is slow

    layers: list[nn.Module] = []
    for level in range(strided):
        block = Convolution(
            spatial_dims=3,
            in_channels=channels if level == 0 else width,
            out_channels=width,
            strides=2,
            kernel_size=3,
            norm=("GROUP", {"num_groups": 1}),
            act="GELU",
        )
        block.adn.N = GroupNorm(1, width)
        layers.append(block)
    projection = nn.Linear((width if strided else channels) * cells**3, width)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(cells), nn.Flatten(), projection)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


def _placer(channels: int, width: int) -> nn.Sequential:
    """Where each token of 4³ voxels lies: ``(N, C, *view)`` → ``(N, 3, *tokens)``.

    It reads 10³ voxels and no more, so that what a place is must be in the features there. One
    voxel alone is not enough: backbones normalise their features over the view, which fixes the
    means of the channels, and what view it is shows in how neighbours differ. Ours, like ``voxel``.
    """
    layers: list[nn.Module] = []
    for level in range(2):
        # Even kernels, so that tokens lie in the middle of their voxels.
        layers += [
            nn.Conv3d(width if level else channels, width, 4, stride=2, padding=1),
            nn.GroupNorm(1, width),
            nn.GELU(),
        ]
    return nn.Sequential(*layers, nn.Conv3d(width, 3, 1, bias=False))


class SpatialHeads(nn.Module):
    """Vectors of views, gaps between them, embeddings of chunks (arXiv 2509.05967).

    Gaps by ``W`` and vectors as differences of positions are the paper's; the pairwise head, and
    view vectors read from the coarse features, are ours.

    Args:
        channels: Channels of the dense feature map.
        coarse: Channels of the encoder's last feature map.
        config: Widths and the kind of vector head.
    """

    def __init__(self, channels: int, coarse: int, config: SpatialConfig) -> None:
        super().__init__()
        self.pairwise = config.head == "pairwise"
        self.from_dense = config.vector_from == "dense"
        if self.from_dense:
            self.view_vector = _embedder(channels, config.width, strided=2, cells=2)
        else:
            self.view_vector = _embedder(coarse, config.width, strided=0, cells=2)
        self.chunk_vector = _embedder(channels, config.chunk_width, strided=1, cells=2)
        if config.voxels:
            self.voxel_place = _placer(channels, config.voxel_width)
        # Without bias, so that equal views have no gap.
        self.gap = nn.Linear(config.width, 3, bias=False)
        width = config.width
        self.direction = _mlp(2 * width, width, 3) if self.pairwise else _mlp(width, width, 3)

    def gaps(self, vectors: Tensor) -> Tensor:
        """``ĝ_ij = W(v_j − v_i)``: ``(…, V, D)`` → ``(…, V, V, 3)``, in normalised lengths."""
        with _own_precision(vectors):
            projected = self.gap(at_least_single(vectors))
        return projected[..., None, :, :] - projected[..., :, None, :]

    def steps(self, vectors: Tensor) -> Tensor:
        """Vectors ``d_ij`` from view to view: ``(…, V, D)`` → ``(…, V, V, 3)``."""
        vectors = at_least_single(vectors)
        with _own_precision(vectors):
            if not self.pairwise:
                position = self.direction(vectors)
                return position[..., None, :, :] - position[..., :, None, :]
            views = vectors.shape[-2]
            shape = (*vectors.shape[:-1], views, vectors.shape[-1])
            begin = vectors.unsqueeze(-2).expand(shape)
            end = vectors.unsqueeze(-3).expand(shape)
            return self.direction(torch.cat([begin, end], dim=-1))

    def places(self, dense: Tensor) -> Tensor:
        """Where each voxel lies, up to a shift: ``(N, C, *view)`` → ``(N, 3, *view)``.

        Between the centres of tokens places are interpolated.
        """
        with _own_precision(dense):
            tokens: Tensor = self.voxel_place(at_least_single(dense))
            return F.interpolate(tokens, size=dense.shape[2:], mode="trilinear")


class Encoded(NamedTuple):
    """Feature maps of a flat list of views: dense ``(N, C, *view)`` and vectors ``(N, D)``."""

    dense: Tensor
    vectors: Tensor


def encode(network: Network, views: Tensor) -> Encoded:
    """Dense features and vectors of ``views (N, C, *view)``."""
    heads: SpatialHeads = network.heads

    def forward(some: Tensor) -> Encoded:
        features = network.backbone.encode(some)
        dense = network.backbone.decode(features)
        return Encoded(dense, heads.view_vector(dense if heads.from_dense else features[-1]))

    return few_at_a_time(forward, network.backbone, views)


def _own_precision(tensor: Tensor) -> torch.autocast:
    """No autocast: a position rounded to bf16 is off by more than a small gap."""
    return torch.autocast(tensor.device.type, enabled=False)
