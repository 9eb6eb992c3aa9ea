"""A :class:`~situs.methods.base.Source` over an array in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from situs.store.crop import crop_padded


@dataclass(frozen=True)
class ArraySource:
    """An array ``(C, X, Y, Z)`` already prepared, with its affine; for tests and for transfer."""

    array: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64] = field(default_factory=lambda: np.eye(4))
    key: str = "array"
    modality: str = "unknown"
    study: str = ""
    description: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        x, y, z = self.array.shape[1:]
        return (x, y, z)

    @property
    def channels(self) -> int:
        """Channels."""
        return int(self.array.shape[0])

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxel centres along each axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return (x, y, z)

    def read(self, start: Sequence[int], size: Sequence[int]) -> npt.NDArray[np.float32]:
        """The crop ``(C, *size)`` at voxel ``start``; zeros outside."""
        return crop_padded(self.array, start, size)
