"""Directions that the slices of a role share, whatever order and rows a scanner wrote them in.

Rows, columns and the order of slices say nothing about anatomy, and the axes of an oblique stack
that lies between two of the body's change places from one patient to the next. So every slice is
turned within its plane, and every stack followed, as close as can be to one frame for each role.
Ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from situs.catalog.studies import RoleRules, by_role
from situs.geometry import Plane
from situs.views.planes import centred_plane
from situs.views.planes_virtual import in_plane_axes
from situs.views.source import Source

Array = npt.NDArray[np.float64]
Direction = tuple[float, float, float]


def by_study(sources: Sequence[Source]) -> list[list[Source]]:
    """Scans by study; one of unknown study stands alone."""
    studies: dict[str, list[Source]] = {}
    for number, source in enumerate(sources):
        studies.setdefault(source.study or f"scan {number}", []).append(source)
    return list(studies.values())


def fitted_frames(sources: Sequence[Source], rules: RoleRules) -> dict[str, Direction]:
    """The mean normal of each role's stacks: the axis closest to all of them, signs aside."""
    normals: dict[str, list[Array]] = {}
    for study in by_study(sources):
        for role, stacks in by_role(study, rules).items():
            normals.setdefault(role, []).extend(stack.normal_mm for stack in stacks)
    frames = {}
    for role, each in normals.items():
        stacked = np.stack(each)
        mean = np.linalg.eigh(stacked.T @ stacked)[1][:, -1]
        x, y, z = (mean * np.sign(mean[np.abs(mean).argmax()])).round(6).tolist()
        frames[role] = (x, y, z)
    return frames


def in_frame(base: Plane, frame: Direction) -> Plane:
    """A slice turned into a frame.

    Args:
        base: The slice.
        frame: The normal that its role's slices share.

    Returns:
        A plane of one pixel about the slice's centre; its normal points along the frame's, its
        rows run as close as can be to the frame's.
    """
    normal = np.asarray(frame)
    own = base.normal_mm if base.normal_mm @ normal >= 0 else -base.normal_mm
    row, _ = in_plane_axes(normal)
    row = row - (row @ own) * own
    length = float(np.linalg.norm(row))
    if length < 0.1:  # a stack that lies across its role's
        row, _ = in_plane_axes(own)
        length = 1.0
    row /= length
    return centred_plane(base.center_mm, row, np.cross(own, row), (1, 1), base.spacing)
