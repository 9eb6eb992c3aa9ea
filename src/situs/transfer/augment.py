"""Random changes of a whole batch of patches at once: draw the parameters, then apply them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from situs.transfer.config import Augmentation

_ANISOTROPIC = 3.0
"""Axes whose spacings differ by more than this factor are not rotated into each other."""


@dataclass(frozen=True)
class Drawn:
    """Parameters of one change of each of ``B`` patches.

    Attributes:
        matrix: ``(B, D, D)``, takes offsets from the centre in the changed patch to offsets in
            the original, both in voxels.
        gamma: ``(B,)`` exponents.
        contrast: ``(B,)`` factors.
        brightness: ``(B,)`` shifts, in standard deviations of the patch.
        noise: ``(B,)`` standard deviations, in those of the patch.
    """

    matrix: Tensor
    gamma: Tensor
    contrast: Tensor
    brightness: Tensor
    noise: Tensor

    def rows(self, own: slice) -> Drawn:
        """The parameters of some of the patches."""
        return Drawn(**{name: values[own] for name, values in vars(self).items()})

    def crop_size(self, patch_size: tuple[int, ...]) -> tuple[int, ...]:
        """Voxels along each axis that every changed patch of ``patch_size`` looks at.

        Even or odd as the patch is: the centres of both then lie alike between voxels, and no
        change at all gives an exact copy.
        """
        size = torch.tensor(patch_size)
        extent = (self.matrix.abs() @ size.float()).amax(0)
        margin = ((extent - size) / 2).ceil().clamp_min(0).int()
        return tuple((size + 2 * margin).tolist())


def draw(
    config: Augmentation, spacing: Tensor, axes: tuple[int, ...], generator: torch.Generator
) -> Drawn:
    """Draw the parameters for a batch of patches.

    Args:
        config: Ranges and probability; ``flip_axes`` ``"auto"`` flips nothing here.
        spacing: ``(B, D)`` millimetres, so that rotations are rigid in space.
        axes: Volume axis of each patch axis: (0, 1, 2), or the two axes of a slice.
        generator: The only source of randomness.
    """
    batch, dims = spacing.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand((batch, *shape), generator=generator) * 2 - 1

    def happens() -> Tensor:
        return (torch.rand(batch, generator=generator) < config.probability).float()

    angles = uniform(1 if dims == 2 else 3) * math.radians(config.rotation_deg)
    matrix = _rotations(angles * happens()[:, None], spacing)
    matrix = matrix * (1 + config.scale * uniform() * happens())[:, None, None]
    matrix = matrix * spacing[:, None, :] / spacing[:, :, None]
    signs = torch.ones(batch, dims)
    for place, axis in enumerate(axes):
        if axis in config.flips:
            signs[:, place] = 1 - 2 * (torch.rand(batch, generator=generator) < 0.5).float()
    return Drawn(
        matrix=matrix * signs[:, None, :],
        gamma=torch.exp(config.gamma * uniform() * happens()),
        contrast=1 + config.contrast * uniform() * happens(),
        brightness=config.brightness * uniform() * happens(),
        noise=config.noise * uniform().abs() * happens(),
    )


def move(
    images: Tensor, labels: Tensor | None, drawn: Drawn, size: tuple[int, ...]
) -> tuple[Tensor, Tensor | None]:
    """Resample crops about their centres; linear for images, nearest for labels.

    Args:
        images: ``(B, C, *crop)``, crops of at least ``drawn.crop_size(size)``.
        labels: ``(B, *crop)`` integers, or None.
        drawn: From :func:`draw`.
        size: Of the patches that come out.

    Returns:
        ``(B, C, *size)`` and ``(B, *size)``; beyond the crops their outermost voxels go on.
    """
    crop = torch.tensor(images.shape[2:], dtype=torch.float32)
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in size]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    there = torch.einsum("bij,...j->b...i", drawn.matrix, offsets)
    # grid_sample wants the fastest axis first and borders at ±1.
    grid = (2 * there / crop).flip(-1)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if labels is None:
        return moved, None
    picked = F.grid_sample(
        labels[:, None].float(),
        grid,
        mode="nearest",
        padding_mode="border",
        align_corners=False,
    )
    return moved, picked[:, 0].long()


def recolour(
    images: Tensor, drawn: Drawn, generator: torch.Generator, own: slice = slice(None)
) -> Tensor:
    """Gamma, contrast, brightness and noise; ``(B, C, *spatial)`` in and out.

    Args:
        images: The patches ``own`` of a batch.
        drawn: From :func:`draw`, for the whole batch.
        generator: Of the noise, which is drawn for the whole batch too.
        own: Which patches of it ``images`` are.
    """
    whole = len(drawn.noise)
    drawn = drawn.rows(own)

    def column(values: Tensor) -> Tensor:
        return values.reshape(-1, *(1,) * (images.ndim - 1))

    spatial = tuple(range(2, images.ndim))
    low, high = images.amin(spatial, keepdim=True), images.amax(spatial, keepdim=True)
    span = (high - low).clamp_min(1e-6)
    curved = ((images - low) / span).clamp(0, 1).pow(column(drawn.gamma)) * span + low
    std, mean = torch.std_mean(curved, dim=spatial, keepdim=True)
    changed = (curved - mean) * column(drawn.contrast) + mean + std * column(drawn.brightness)
    if not bool(drawn.noise.any()):
        return changed
    return changed + std * column(drawn.noise) * _noise(images, whole, generator)[own]


def _noise(images: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    return torch.randn((batch, *images.shape[1:]), generator=generator)


def _rotations(angles: Tensor, spacing: Tensor) -> Tensor:
    """``(B, 1)`` or ``(B, 3)`` angles in radians → ``(B, D, D)`` rotations in mm."""
    dims = spacing.shape[1]
    planes = [(0, 1)] if dims == 2 else [(1, 2), (0, 2), (0, 1)]
    result = torch.eye(dims).repeat(len(angles), 1, 1)
    for (i, j), angle in zip(planes, angles.unbind(1), strict=True):
        ratio = spacing[:, i] / spacing[:, j]
        allowed = (ratio < _ANISOTROPIC) & (1 / ratio < _ANISOTROPIC)
        cos, sin = (angle * allowed).cos(), (angle * allowed).sin()
        turn = torch.eye(dims).repeat(len(angles), 1, 1)
        turn[:, i, i] = turn[:, j, j] = cos
        turn[:, i, j], turn[:, j, i] = -sin, sin
        result = result @ turn
    return result
