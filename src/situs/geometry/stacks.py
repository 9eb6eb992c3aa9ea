"""Stacks of slices: which axis they are stacked along, and how they lie in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Orientation = Literal["sagittal", "coronal", "axial"]
_NAMES: tuple[Orientation, ...] = ("sagittal", "coronal", "axial")


def stack_axis(
    shape: Sequence[int], spacing: Sequence[float], min_ratio: float = 1.5
) -> int | None:
    """The axis that a scan's slices are stacked along, None for a volume without one.

    Args:
        shape: Voxels along each axis.
        spacing: Millimetres along each axis.
        min_ratio: Slices must lie this many times as far apart as the pixels within them; a
            single slice is a stack in any case.
    """
    single = [axis for axis, n in enumerate(shape) if n == 1]
    if len(single) == 1:
        return single[0]
    axis = int(np.argmax(spacing))
    within = max(s for a, s in enumerate(spacing) if a != axis)
    return axis if spacing[axis] >= min_ratio * within else None


def orientation(normal_mm: npt.ArrayLike) -> tuple[Orientation, float]:
    """The cardinal orientation of a plane with this normal, and its tilt from it in degrees."""
    normal = np.abs(np.asarray(normal_mm, dtype=np.float64))
    axis = int(normal.argmax())
    tilt = np.degrees(np.arccos(np.clip(normal[axis] / np.linalg.norm(normal), 0, 1)))
    return _NAMES[axis], float(tilt)
