"""Cut a box out of an array, also where it reaches beyond."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def crop_padded(array: Any, start: Sequence[int], size: Sequence[int]) -> npt.NDArray[np.float32]:
    """Copy the crop ``(C, *size)`` at ``start`` out of ``(C, X, Y, Z)``; zeros outside.

    Args:
        array: Anything with ``shape`` and slicing; only the voxels inside are asked for.
        start: First voxel; may be negative.
        size: Voxels along each axis.
    """
    crop = np.zeros((array.shape[0], *size), dtype=np.float32)
    low = [max(0, s) for s in start]
    high = [min(n, s + k) for n, s, k in zip(array.shape[1:], start, size, strict=True)]
    if all(b > a for a, b in zip(low, high, strict=True)):
        inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        there = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
        crop[(slice(None), *there)] = array[(slice(None), *inside)]
    return crop
