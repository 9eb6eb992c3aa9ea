"""Whole scans in observations: small enough to be kept at every step, and where they were."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from situs.observation import Volume
from situs.store.intensity import block_means
from situs.tensors import to_numpy
from situs.views.source import Source

LONGEST_VOX = 128
"""Voxels an axis may keep; nothing but ``situs observe --full`` ever drew more."""

_LEVELS = 256  # of grey, as on the screen: few values, which compress to a byte a voxel

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WholeScan:
    """A scan to draw on, averaged over blocks of voxels where it is large.

    Attributes:
        volume: ``(X, Y, Z)`` float16 and the affine of the blocks' centres.
        blocks: Voxels of the scan that became one, along each axis.
    """

    volume: Volume
    blocks: tuple[int, int, int]

    def points(self, points_vox: npt.ArrayLike | Tensor) -> Float:
        """Points ``(…, 3)`` from the scan's voxel frame to the volume's."""
        return (_array(points_vox) + 0.5) / self.blocks - 0.5

    def sizes(self, sizes_vox: npt.ArrayLike | Tensor) -> Float:
        """Sizes of boxes and their first voxels, whose edges lie half a voxel before centres."""
        return _array(sizes_vox) / self.blocks


class WholeScans:
    """The scans that an observation draws on, each read and reduced once."""

    def __init__(self) -> None:
        self._made: dict[str, WholeScan] = {}

    def of(self, source: Source) -> WholeScan:
        """See :func:`whole_scan`."""
        if source.key not in self._made:
            self._made[source.key] = whole_scan(source)
        return self._made[source.key]


def whole_scan(source: Source) -> WholeScan:
    """The first channel of a scan, with at most :data:`LONGEST_VOX` voxels along each axis.

    Where blocks do not fill an axis, the last one holds the mean of what is there.
    """
    array = source.read((0, 0, 0), source.shape)[0]
    x, y, z = (-(-n // LONGEST_VOX) for n in source.shape)
    means = block_means(array, (x, y, z)) if max(x, y, z) > 1 else array
    low, high = float(means.min()), float(means.max())
    step = (high - low) / (_LEVELS - 1) or 1.0
    grey = (np.rint((means - low) / step) * step + low).astype(np.float16)
    affine = np.array(source.affine, dtype=np.float64)
    affine[:3, 3] += affine[:3, :3] @ ((np.array([x, y, z]) - 1) / 2)
    affine[:3, :3] *= [x, y, z]
    return WholeScan(Volume(grey, affine, source.key), (x, y, z))


def _array(values: npt.ArrayLike | Tensor) -> Float:
    if isinstance(values, Tensor):
        return to_numpy(values)
    return np.asarray(values, dtype=np.float64)
