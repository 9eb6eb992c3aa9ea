"""Random anatomies: smooth deformations that neither fold nor tear.

A stationary velocity field, integrated by scaling and squaring, gives a diffeomorphism
(Arsigny et al., MICCAI 2006).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.transform import Rotation

Floats = npt.NDArray[np.float32]

_CONTROL_MM = 4.0
_SQUARINGS = 6
# Smoothness and standard deviation in mm: form of the head, then of its parts. Their ratio
# keeps a single squaring step, 1/64 of the field, far from folding.
_SCALES_MM = ((30.0, 3.5), (12.0, 2.0))


def smooth_field(
    shape: Sequence[int], sigma: float, rng: np.random.Generator, components: int = 1
) -> Floats:
    """Gaussian noise smoothed to ``sigma`` voxels and scaled to standard deviation 1.

    Returns:
        ``(components, *shape)``.
    """
    field = rng.standard_normal((components, *shape)).astype(np.float32)
    field = ndimage.gaussian_filter(field, (0, *[sigma] * len(shape)), mode="wrap")
    scaled: Floats = field / field.std()
    return scaled


def integrate(velocity: Floats) -> Floats:
    """Displacement after unit time of flowing along ``velocity``.

    Args:
        velocity: ``(3, X, Y, Z)`` in voxels.

    Returns:
        ``(3, X, Y, Z)`` in voxels: exp(v)(x) - x, by six squarings.
    """
    identity = np.indices(velocity.shape[1:], dtype=np.float32)
    displacement = velocity / np.float32(2**_SQUARINGS)
    for _ in range(_SQUARINGS):
        there = identity + displacement
        displacement = displacement + sample(displacement, there)
    return displacement


def sample(channels: Floats, points: Floats) -> Floats:
    """Channels ``(C, X, Y, Z)`` at ``points`` ``(3, *shape)`` in voxels, linearly."""
    out = np.empty((channels.shape[0], *points.shape[1:]), dtype=np.float32)
    for channel, target in zip(channels, out, strict=True):
        ndimage.map_coordinates(channel, points, output=target, order=1, mode="nearest")
    return out


def random_warp(shape: Sequence[int], spacing_mm: float, rng: np.random.Generator) -> Floats:
    """Where each voxel of a new anatomy lies in the old one.

    Args:
        shape: Voxels of the new grid.
        spacing_mm: Of the new grid, the same along all axes.
        rng: Source of randomness.

    Returns:
        ``(3, *shape)`` in mm from voxel (0, 0, 0): a diffeomorphism, then a similarity and
        slight stretching about the centre of the grid.
    """
    extent = np.array(shape) * spacing_mm
    control = [int(n) for n in np.ceil(extent / _CONTROL_MM) + 1]
    velocity = np.zeros((3, *control), dtype=np.float32)
    for sigma_mm, std_mm in _SCALES_MM:
        field = smooth_field(control, sigma_mm / _CONTROL_MM, rng, components=3)
        velocity += np.float32(std_mm / _CONTROL_MM) * field
    displacement = integrate(velocity) * np.float32(_CONTROL_MM)
    grid = np.indices(shape, dtype=np.float32)
    points = grid * np.float32(spacing_mm)
    points += sample(displacement, grid * np.float32(spacing_mm / _CONTROL_MM))

    centre = ((np.array(shape) - 1) * spacing_mm / 2).astype(np.float32)[:, None, None, None]
    turn = Rotation.from_euler("xyz", rng.uniform(-6, 6, 3), degrees=True).as_matrix()
    stretch = rng.uniform(0.94, 1.06) * rng.uniform(0.97, 1.03, 3)
    affine = (turn * stretch).astype(np.float32)
    moved: Floats = np.einsum("ij,j...->i...", affine, points - centre) + centre
    return moved


def jacobian_determinant(points_mm: Floats, spacing_mm: float) -> npt.NDArray[np.float64]:
    """Local volume change of a warp, by central differences; positive where it does not fold.

    Args:
        points_mm: ``(3, X, Y, Z)``.
        spacing_mm: Of the grid that it is sampled on.
    """
    gradients = np.stack([np.stack(np.gradient(p, spacing_mm)) for p in points_mm.astype(float)])
    determinant: npt.NDArray[np.float64] = np.linalg.det(np.moveaxis(gradients, (0, 1), (-2, -1)))
    return determinant
