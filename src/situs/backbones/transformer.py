"""A vision transformer: tokens, positions, attention.

Two networks are made of them: ``primus`` (rotary positions; EVA-02's blocks, Fang et al., arXiv
2303.11331, as Wald et al. use them in Primus, arXiv 2503.01835) and ``vit`` (learned positions
and a class token; DINOv2's blocks, Oquab et al., arXiv 2304.07193).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
_RESIZED = {2: "bilinear", 3: "trilinear"}
_WAVELENGTH = 10_000.0  # of the slowest rotary angle, over 2π, in tokens


@dataclass(frozen=True)
class Shape:
    """What a transformer is made of.

    Attributes:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        patch: Voxels of a token along each axis.
        width: Numbers a token.
        depth: Blocks.
        heads: Attention heads; each divides ``width``.
        hidden: Width inside the perceptron of a block.
        gated: EVA-02's block, whose perceptron is gated (SwiGLU) and, like its attention,
            normalised inside; otherwise a GELU between two layers.
        rotary: Whether queries and keys are turned by the place of their token.
        grid: Tokens along each axis that learned positions are stored for; empty for none.
        prefix: Tokens that stand for no place: a class token, then registers.
        scale: What each branch is multiplied by at first (LayerScale).
        drop_path: Stochastic depth of the last block; that of the others rises to it.
        epsilon: Of layer normalisation.
    """

    spatial_dims: int
    in_channels: int
    patch: tuple[int, ...]
    width: int
    depth: int
    heads: int
    hidden: int
    gated: bool
    rotary: bool
    grid: tuple[int, ...]
    prefix: int
    scale: float
    drop_path: float
    epsilon: float


def rotary_angles(grid: Sequence[int], size: int) -> Tensor:
    """By how much each pair of numbers of a query or key is turned, ``(tokens, size / 2)``.

    Each axis of the image has its share of the pairs, and each pair a frequency: places then
    enter attention as their differences, so that it knows directions and distances (Su et al.,
    RoFormer, arXiv 2104.09864; by axis as in EVA-02 and Primus).

    Args:
        grid: Tokens along each axis.
        size: Numbers a head; a multiple of twice the number of axes.
    """
    bands = size // (2 * len(grid))
    frequencies = _WAVELENGTH ** -(torch.arange(bands, dtype=torch.float32) / bands)
    axes = [torch.arange(n, dtype=torch.float32) for n in grid]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
    return (places[:, :, None] * frequencies).flatten(1)


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Numbers 2i and 2i + 1 turned together by angle i.

    Args:
        x: ``(…, tokens, size)``.
        angles: ``(…, tokens, size / 2)``.
    """
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    sine, cosine = angles.sin(), angles.cos()
    return torch.stack((a * cosine - b * sine, b * cosine + a * sine), -1).flatten(-2).to(x.dtype)


class _Attention(nn.Module):
    """All tokens look at each other. A bias of keys would change nothing, so there is none."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, shape.epsilon) if shape.gated else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, angles: Tensor | None) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        if angles is not None:
            q, k = rotated(q, angles), rotated(k, angles)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = self.proj(self.norm(seen))
        return out


class _Gated(nn.Module):
    """SwiGLU, normalised inside."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.fc1_g = nn.Linear(shape.width, shape.hidden)
        self.fc1_x = nn.Linear(shape.width, shape.hidden)
        self.norm = nn.LayerNorm(shape.hidden, shape.epsilon)
        self.fc2 = nn.Linear(shape.hidden, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.norm(F.silu(self.fc1_g(x)) * self.fc1_x(x)))
        return out


class _Perceptron(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.fc1 = nn.Linear(shape.width, shape.hidden)
        self.fc2 = nn.Linear(shape.hidden, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class _Block(nn.Module):
    """Attention, then a perceptron, each beside a way around it."""

    def __init__(self, shape: Shape, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width, shape.epsilon)
        self.attn = _Attention(shape)
        self.norm2 = nn.LayerNorm(shape.width, shape.epsilon)
        self.mlp = _Gated(shape) if shape.gated else _Perceptron(shape)
        self.gamma_1 = nn.Parameter(torch.full((shape.width,), shape.scale))
        self.gamma_2 = nn.Parameter(torch.full((shape.width,), shape.scale))
        from monai.networks.layers.drop_path import DropPath  # noqa: PLC0415 - takes seconds

        self.drop = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, angles: Tensor | None) -> Tensor:
        x = x + self.drop(self.gamma_1 * self.attn(self.norm1(x), angles))
        out: Tensor = x + self.drop(self.gamma_2 * self.mlp(self.norm2(x)))
        return out


class _Embedding(nn.Module):
    """Patches of the image as tokens, with the positions and the tokens that are learned."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.grid = shape.grid
        self.proj = _CONV[shape.spatial_dims](
            shape.in_channels, shape.width, kernel_size=shape.patch, stride=shape.patch
        )
        self.positions = _learned(math.prod(shape.grid), shape.width) if shape.grid else None
        self.prefix = _learned(shape.prefix, shape.width) if shape.prefix else None

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        x: Tensor = self.proj(image)
        grid = tuple(x.shape[2:])
        tokens = x.flatten(2).transpose(1, 2)
        return (tokens if self.positions is None else tokens + self._positions(grid)), grid

    def _positions(self, grid: tuple[int, ...]) -> Tensor:
        assert self.positions is not None
        if grid == self.grid:
            return self.positions
        stored = self.positions.transpose(1, 2).unflatten(2, self.grid)
        resized = F.interpolate(stored, size=grid, mode=_RESIZED[len(grid)], align_corners=False)
        return resized.flatten(2).transpose(1, 2)


class TokenEncoder(nn.Module):
    """A vision transformer.

    Args:
        shape: What it is made of.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed = _Embedding(shape)
        drops = [shape.drop_path * n / max(1, shape.depth - 1) for n in range(shape.depth)]
        self.blocks = nn.ModuleList(_Block(shape, drop) for drop in drops)
        self.norm = nn.LayerNorm(shape.width, shape.epsilon)
        self._turns = shape.width // shape.heads if shape.rotary else 0
        self._first = shape.prefix
        self.apply(_small)
        for depth, block in enumerate(self.blocks, start=1):  # as BEiT and EVA begin
            for layer in (block.get_submodule("attn.proj"), block.get_submodule("mlp.fc2")):
                layer.get_parameter("weight").data.div_(math.sqrt(2 * depth))

    def forward(self, image: Tensor, seen: Tensor | None = None) -> Tensor:
        """Tokens, normalised: ``(B, tokens, width)``, those that stand for no place left out.

        Args:
            image: ``(B, C, *spatial)``.
            seen: ``(B, n)``, numbers of the tokens that are looked at; None for all. The others
                cost nothing.
        """
        x, grid = self.embed(image)
        angles = rotary_angles(grid, self._turns).to(x.device) if self._turns else None
        if seen is not None:
            x = x.gather(1, seen[..., None].expand(-1, -1, x.shape[-1]))
            angles = None if angles is None else angles[seen][:, None]
        if self.embed.prefix is not None:
            x = torch.cat((self.embed.prefix.expand(len(x), -1, -1), x), dim=1)
        for block in self.blocks:
            x = block(x, angles)
        out: Tensor = self.norm(x[:, self._first :])
        return out


class Mixer(nn.Module):
    """Transformer blocks over a feature map, for decoders that must fill what was not seen.

    Args:
        shape: Of the transformer whose features come in; ``depth`` blocks of its kind.
        depth: Number of blocks.
    """

    def __init__(self, shape: Shape, depth: int) -> None:
        super().__init__()
        plain = replace(shape, scale=1.0)
        self.blocks = nn.ModuleList(_Block(plain, 0.0) for _ in range(depth))
        self.norm = nn.LayerNorm(shape.width, shape.epsilon)
        self.heads = shape.heads
        self.apply(_small)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, width, *grid)`` → the same, each place having seen the others."""
        x, grid = features.flatten(2).transpose(1, 2), features.shape[2:]
        size = x.shape[-1] // self.heads
        # Where the size of a head does not divide by axes and pairs, its last numbers stay.
        pairs = size // (2 * len(grid)) * len(grid)
        angles = rotary_angles(grid, 2 * pairs).to(x.device)
        angles = F.pad(angles, (0, size // 2 - pairs))
        for block in self.blocks:
            x = block(x, angles)
        out: Tensor = self.norm(x)
        return out.transpose(1, 2).unflatten(2, grid)


def _learned(tokens: int, width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, tokens, width), std=0.02))


def _small(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
