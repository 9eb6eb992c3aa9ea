"""A module with the public names of DINOv2's transformer, written out; 3DINO's where it is 3D."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 0.1))


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Written out, with heads of 64 numbers."""
        batch, tokens, width = x.shape
        heads = width // 64
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, heads, 64).permute(2, 0, 3, 1, 4)
        seen = (q @ k.transpose(-1, -2) / 8).softmax(-1) @ v
        return self.proj(seen.transpose(1, 2).reshape(batch, tokens, width))


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attn, self.mlp = _Attention(width), _Mlp(width)
        self.ls1, self.ls2 = _Scale(width), _Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1.gamma * self.attn(self.norm1(x))
        return x + self.ls2.gamma * self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class Dino(nn.Module):
    """A module with the public names of DINOv2's transformer; 3DINO's where it is 3D."""

    def __init__(self, dims: int, channels: int, patch: int, side: int, registers: int) -> None:
        super().__init__()
        width = 128
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side**dims, width))
        if registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, registers, width))
        self.patch_embed = nn.Module()
        conv = nn.Conv3d if dims == 3 else nn.Conv2d
        self.patch_embed.proj = conv(channels, width, patch, patch)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(2))
        self.norm = nn.LayerNorm(width, 1e-6)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed.proj(image)
        grid = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1) + self.pos_embed
        first = 1
        if hasattr(self, "register_tokens"):
            registers = self.register_tokens.expand(len(x), -1, -1)
            x, first = torch.cat((x[:, :1], registers, x[:, 1:]), 1), 1 + registers.shape[1]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, first:].transpose(1, 2).unflatten(2, grid)
