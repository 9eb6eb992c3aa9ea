"""From a scan's own voxel grid to the prepared one, and back.

Voxel centres sit at integer indices. A change of grid permutes and flips axes, cuts a box and
resamples it about its centre; undoing it runs the same three steps backwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.orientations import inv_ornt_aff
from scipy import ndimage

from situs.geometry.axes import ras_axes

Floats = npt.NDArray[np.float32]
Triple = tuple[int, int, int]

_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))


@dataclass(frozen=True)
class GridChange:
    """How a prepared grid came from a scan's own grid.

    Attributes:
        source_shape: Voxels of the scan's own grid.
        axes: Source axis that becomes R, A, S.
        flips: Whether that axis is reversed, in the order R, A, S.
        start: First voxel of the crop, after permuting and flipping.
        stop: One past its last voxel.
        shape: Voxels after resampling.
        scale: Prepared spacing over source spacing, along R, A, S.
    """

    source_shape: Triple
    axes: Triple
    flips: tuple[bool, bool, bool]
    start: Triple
    stop: Triple
    shape: Triple
    scale: tuple[float, float, float]

    @property
    def oriented_shape(self) -> Triple:
        """Source voxels along R, A, S."""
        return _triple(self.source_shape[a] for a in self.axes)

    @property
    def cropped_shape(self) -> Triple:
        """Source voxels of the crop along R, A, S."""
        return _triple(b - a for a, b in zip(self.start, self.stop, strict=True))

    def affine(self, source_affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Affine of the prepared grid, from the scan's own."""
        ornt = np.empty((3, 2))
        for canonical, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            ornt[axis] = (canonical, -1 if flip else 1)
        oriented = source_affine @ inv_ornt_aff(ornt, self.source_shape)
        crop = np.eye(4)
        crop[:3, 3] = self.start
        resample = np.diag([*self.scale, 1.0])
        resample[:3, 3] = centred_offset(self.cropped_shape, self.shape, self.scale)
        affine: npt.NDArray[np.float64] = oriented @ crop @ resample
        return affine


def resampled_shape(
    shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]
) -> Triple:
    """Voxels that cover the same extent at another spacing, at least one along each axis."""
    return _triple(max(1, round(n * s / t)) for n, s, t in zip(shape, spacing, target, strict=True))


def median_spacing_of(
    grids: Iterable[tuple[npt.NDArray[np.float64], Sequence[float]]],
) -> tuple[float, float, float]:
    """Median spacing in mm along R, A, S of grids that may be stored in any orientation.

    Args:
        grids: Affine ``(4, 4)`` and spacing along the array axes of each.
    """
    spacings = [[spacing[a] for a in ras_axes(affine)[0]] for affine, spacing in grids]
    x, y, z = np.median(spacings, axis=0).round(4).tolist()
    return (x, y, z)


def centred_offset(
    shape: Sequence[int], new_shape: Sequence[int], scale: Sequence[float]
) -> npt.NDArray[np.float64]:
    """Old index of new voxel 0, when both grids share their centre."""
    old, new = np.asarray(shape, float), np.asarray(new_shape, float)
    return (old - 1) / 2 - (new - 1) / 2 * np.asarray(scale)


def resample(
    array: npt.NDArray[np.generic],
    shape: Sequence[int],
    scale: Sequence[float],
    interpolation: str = "linear",
) -> Floats:
    """Resample channels about the volume's centre, without aliasing.

    Where voxels grow by a factor k, the image is first smoothed so that its resolution (taken
    as a Gaussian of one voxel's width) becomes that of the new voxels: the Gaussian between
    has a full width at half maximum of sqrt(k² - 1) old voxels (Cardoso et al., MICCAI 2015).
    Linear or cubic interpolation afterwards is ours.

    Args:
        array: ``(C, *old)``.
        shape: New voxels along each axis.
        scale: New spacing over old spacing along each axis.
        interpolation: ``"linear"`` or ``"cubic"``.

    Returns:
        ``(C, *shape)`` float32; positions beyond the outermost centres take the nearest value.
    """
    out = np.empty((array.shape[0], *shape), dtype=np.float32)
    unchanged = tuple(shape) == array.shape[1:] and np.allclose(scale, 1.0, atol=1e-6)
    sigma = [np.sqrt(max(k * k - 1.0, 0.0)) / _FWHM for k in scale]
    offset = centred_offset(array.shape[1:], shape, scale)
    for source, target in zip(array, out, strict=True):
        if unchanged:
            target[...] = source
            continue
        smooth = np.asarray(source, dtype=np.float32)
        if max(sigma) > 0:
            smooth = ndimage.gaussian_filter(smooth, sigma, mode="nearest", truncate=3.0)
        ndimage.affine_transform(
            smooth,
            np.asarray(scale, dtype=float),
            offset=offset,
            output=target,
            order=3 if interpolation == "cubic" else 1,
            mode="nearest",
        )
    return out


def resample_labels(
    labels: npt.NDArray[np.integer], shape: Sequence[int], scale: Sequence[float]
) -> npt.NDArray[np.int16]:
    """Resample a label map: each class linearly, then the largest share wins.

    Nearest-neighbour would give jagged borders and lose thin structures at random. On a tie
    the smaller class wins.

    Args:
        labels: ``(X, Y, Z)``.
        shape: New voxels along each axis.
        scale: New spacing over old spacing along each axis.
    """
    if tuple(shape) == labels.shape and np.allclose(scale, 1.0, atol=1e-6):
        return labels.astype(np.int16)
    classes = np.unique(labels)
    winner = np.full(tuple(shape), classes[0], dtype=np.int16)
    share = np.zeros(tuple(shape), dtype=np.float32)
    for value in classes:
        (candidate,) = resample((labels == value)[None], shape, scale)
        larger = candidate > share
        winner[larger] = value
        share[larger] = candidate[larger]
    return winner


def _triple(values: Iterable[Any]) -> Triple:
    x, y, z = (int(v) for v in values)
    return (x, y, z)
