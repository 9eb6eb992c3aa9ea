"""Cut a box out of an array, also where it reaches beyond: what lies outside a scan is air.

One rule for every reader (pretraining, fine-tuning, prediction, probes): beyond its border a scan
goes on as its own background, whose value after normalisation preprocessing decides and stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Background = tuple[float, ...]
"""What lies outside a scan, one value a channel; empty where it was never decided."""


def crop_padded(
    array: Any, start: Sequence[int], size: Sequence[int], outside: Sequence[float] = (0.0,)
) -> npt.NDArray[np.float32]:
    """Copy the crop ``(C, *size)`` at ``start`` out of ``(C, X, Y, Z)``.

    Args:
        array: Anything with ``shape`` and slicing, or the ``copy_to`` of a store's arrays; only
            the voxels inside are asked for.
        start: First voxel; may be negative.
        size: Voxels along each axis.
        outside: Value beyond the array: one for all channels or one a channel.
    """
    crop = np.empty((array.shape[0], *size), dtype=np.float32)
    low = [max(0, s) for s in start]
    high = [min(n, s + k) for n, s, k in zip(array.shape[1:], start, size, strict=True)]
    inside = all(b > a for a, b in zip(low, high, strict=True))
    if not inside or tuple(b - a for a, b in zip(low, high, strict=True)) != tuple(size):
        crop[:] = np.asarray(outside, dtype=np.float32).reshape(-1, 1, 1, 1)
    if inside:
        there = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
        into, box = crop[(slice(None), *there)], (slice(None), *map(slice, low, high))
        if hasattr(array, "copy_to"):
            array.copy_to(box, into)
        else:
            widen(array[box], into)
    return crop


def widen(found: npt.NDArray[Any], into: npt.NDArray[np.float32]) -> None:
    """Copy voxels of any type to ``into``, of the same shape."""
    if found.dtype == np.float16 and found.flags.writeable:
        # Torch widens halves twenty times as fast as NumPy.
        import torch  # noqa: PLC0415 - takes a second that preparing a store does without

        torch.from_numpy(into).copy_(torch.from_numpy(found))
    else:
        into[...] = found


def least(array: npt.NDArray[np.generic]) -> Background:
    """The least value of each channel of ``(C, X, Y, Z)``.

    Stands for air where nobody decided what that is: plain arrays, and stores made before
    backgrounds were recorded.
    """
    return tuple(float(channel.min()) for channel in array)
