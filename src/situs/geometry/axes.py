"""Array axes in the order and direction of the patient's: right, anterior, superior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from nibabel.orientations import io_orientation

_T = TypeVar("_T", bound=np.generic)


def ras_axes(
    affine: npt.NDArray[np.float64],
) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Array axis and reversal for each of R, A, S, closest to the world's axes.

    Args:
        affine: ``(4, 4)``, voxels to RAS mm.
    """
    ornt = io_orientation(affine)
    r, a, s = (int(axis) for axis in np.argsort(ornt[:, 0]))
    return (r, a, s), (bool(ornt[r, 1] < 0), bool(ornt[a, 1] < 0), bool(ornt[s, 1] < 0))


def to_ras(array: npt.NDArray[_T], axes: Sequence[int], flips: Sequence[bool]) -> npt.NDArray[_T]:
    """View of ``(C, *own)`` with its axes along R, A, S.

    Args:
        array: Channels first, on the scan's own grid.
        axes: Of :func:`ras_axes`, as are ``flips``.
        flips: Whether each of R, A, S runs against its array axis.
    """
    return _reversed(array.transpose(0, *(a + 1 for a in axes)), flips)


def from_ras(array: npt.NDArray[_T], axes: Sequence[int], flips: Sequence[bool]) -> npt.NDArray[_T]:
    """Inverse of :func:`to_ras`."""
    return _reversed(array, flips).transpose(0, *(int(i) + 1 for i in np.argsort(axes)))


def _reversed(array: npt.NDArray[Any], flips: Sequence[bool]) -> npt.NDArray[Any]:
    return array[(slice(None), *(slice(None, None, -1 if f else 1) for f in flips))]
