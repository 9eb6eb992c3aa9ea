"""Random changes of a whole batch of patches at once: draw the parameters, then apply them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from situs.transfer.config import Augmentation
from situs.views.intensity import IntensityChange, apply_change

_ANISOTROPIC = 3.0
"""Axes whose spacings differ by more than this factor are not rotated into each other."""

_CHANNEL = 1_000_003  # between the noise of two channels of a patch


@dataclass(frozen=True)
class Drawn:
    """Parameters of one change of each of ``B`` patches.

    Attributes:
        matrix: ``(B, D, D)``, takes offsets from the centre in the changed patch to offsets in
            the original, both in voxels.
        changes: ``B`` changes of intensity.
    """

    matrix: Tensor
    changes: tuple[IntensityChange, ...]

    def rows(self, own: slice) -> Drawn:
        """The parameters of some of the patches."""
        return Drawn(self.matrix[own], self.changes[own])

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
    numbers = [
        torch.exp(config.gamma * uniform() * happens()),
        1 + config.contrast * uniform() * happens(),
        config.brightness * uniform() * happens(),
        config.noise * uniform().abs() * happens(),
    ]
    seeds = torch.randint(2**62, (batch,), generator=generator).tolist()
    changes = [
        IntensityChange(gamma=g, contrast=c, shift=s, noise=n, noise_seed=seed)
        for g, c, s, n, seed in zip(*(n.tolist() for n in numbers), seeds, strict=True)
    ]
    return Drawn(matrix * signs[:, None, :], tuple(changes))


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


def recolour(images: Tensor, drawn: Drawn) -> Tensor:
    """Gamma, contrast, brightness and noise; ``(B, C, *spatial)`` in and out.

    Each channel by itself: what is PET beside CT has a range of its own.

    Args:
        images: The patches, on the CPU; changed in place.
        drawn: Of these patches, see :meth:`Drawn.rows`.
    """
    for patch, change in zip(images.numpy(), drawn.changes, strict=True):
        for number, channel in enumerate(patch):
            own = replace(change, noise_seed=change.noise_seed + number * _CHANNEL)
            channel[...] = apply_change(channel[None], own)[0]
    return images


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
