"""Where a NIfTI header puts its voxels.

The order is the standard's own (nifti1.h, "3D image (volume) orientation and location in space"):
sform where its code is above zero, else qform, else the voxel sizes alone. Headers that real files
have, and that the standard does not foresee, are read with a note where one reading is sound.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.quaternions import quat2mat

from situs.scans import quality
from situs.scans.refusals import refuse

Affine = npt.NDArray[np.float64]

_TO_MM = {1: 1000.0, 3: 1e-3}  # xyzt_units: metre, micron
_ROUNDED = 1e-3  # how far past 1 rounding takes a quaternion; nifti1_io normalises any
_SPACING_TOLERANCE = 0.01


def nifti_affine(header: Any, path: Path) -> tuple[Affine, list[str]]:
    """The affine to RAS mm, and what there is to note of it.

    Args:
        header: nibabel's, unchecked.
        path: For errors.

    Raises:
        ScanRefused: ``bad-spacing`` or ``bad-orientation`` where the header gives no affine.
    """
    notes: list[str] = []
    zooms = np.array(header["pixdim"][1:4], dtype=np.float64)
    axes = max(1, min(3, int(header["dim"][0])))
    zooms[axes:] = np.where(zooms[axes:] > 0, zooms[axes:], 1.0)
    sized = bool(np.isfinite(zooms).all() and (zooms > 0).all())
    sform = _sform(header)
    # A sform of its own needs no voxel sizes; everything else is made of them.
    if sform is None or not _is_grid(sform):
        quality.check_spacing(zooms.tolist(), path)
    qform = _qform(header, zooms, path, needed=sform is None, notes=notes) if sized else None
    if sform is not None:
        affine = _by_sform(sform, qform, zooms if sized else None, header, notes)
    elif qform is not None:
        affine = qform
    else:
        affine = np.diag([*zooms, 1.0])
        notes.append("no sform and no qform: orientation assumed RAS, origin at the first voxel")
    scale = _TO_MM.get(int(header["xyzt_units"]) & 7)
    if scale is not None:
        affine = np.diag([scale, scale, scale, 1.0]) @ affine
        notes.append(f"lengths multiplied by {scale:g} to give mm")
    return affine, notes


def _sform(header: Any) -> Affine | None:
    if int(header["sform_code"]) <= 0:
        return None
    return np.asarray(header.get_sform(), dtype=np.float64)


def _qform(
    header: Any, zooms: Affine, path: Path, *, needed: bool, notes: list[str]
) -> Affine | None:
    """The affine of the quaternion, as nifti1_io computes it; None where there is none.

    Where a sform takes its place, what is odd about it is neither noted nor refused.
    """
    if int(header["qform_code"]) <= 0:
        return None
    vector = np.array([header[f"quatern_{k}"] for k in "bcd"], dtype=np.float64)
    square = float(vector @ vector)
    if not np.isfinite(square) or square > 1 + _ROUNDED:
        if needed:
            detail = "the quaternion is not that of a rotation"
            raise refuse("bad-orientation", path, detail)
        return None
    odd = []
    if square > 1 + 2e-7:
        odd.append("quaternion past 1 by rounding: made a unit")
    qfac = float(header["pixdim"][0])
    if qfac not in (-1.0, 1.0):
        odd.append("qfac is neither 1 nor -1: taken by its sign, 0 as 1")
    if needed:
        notes += odd
    affine = np.eye(4)
    rotation = quat2mat([np.sqrt(max(0.0, 1 - square)), *(vector / max(1.0, np.sqrt(square)))])
    affine[:3, :3] = rotation * zooms * [1, 1, -1 if qfac < 0 else 1]
    affine[:3, 3] = [header[f"qoffset_{k}"] for k in "xyz"]
    return affine


def _by_sform(
    sform: Affine, qform: Affine | None, zooms: Affine | None, header: Any, notes: list[str]
) -> Affine:
    """The sform, unless it can only be a placeholder."""
    if not _is_grid(sform):
        if qform is not None:
            notes.append("the sform is no grid: qform used")
            return qform
        return sform  # refused by its own name later
    spacing = np.linalg.norm(sform[:3, :3], axis=0)
    if zooms is None:
        notes.append("sform used; pixdim gives no voxel size")
    elif not np.allclose(spacing, zooms, rtol=_SPACING_TOLERANCE):
        sizes = "×".join(f"{z:.4g}" for z in zooms)
        # Programs that lose the geometry leave a unit matrix, and no program invents voxel sizes.
        if _is_placeholder(sform):
            notes.append(f"the sform is a unit matrix, pixdim says voxels are {sizes} mm: taken")
            if qform is not None:
                return qform
            notes.append("orientation and origin are not known")
            return sform @ np.diag([*zooms, 1.0])
        notes.append(f"sform used; pixdim says voxels are {sizes} mm")
    if qform is not None:
        _note_distance(sform, qform, header, notes)
    return sform


def _is_grid(affine: Affine) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 0)


def _is_placeholder(sform: Affine) -> bool:
    """Whether a sform is a unit matrix, perhaps turned from LPS, without an origin."""
    return bool(np.array_equal(np.abs(sform), np.eye(4)))


def _note_distance(sform: Affine, qform: Affine, header: Any, notes: list[str]) -> None:
    """Note where the qform puts the corners of the volume elsewhere."""
    last = np.maximum(header["dim"][1:4].astype(int) - 1, 0)
    corners = np.stack(np.meshgrid(*[[0, n] for n in last]), axis=-1).reshape(-1, 3)
    with np.errstate(over="ignore"):
        moved_mm = corners @ (sform - qform)[:3, :3].T + (sform - qform)[:3, 3]
        worst = float(np.linalg.norm(moved_mm, axis=1).max())
    if worst > 0.1:
        notes.append(f"sform used; qform places voxels up to {worst:.1f} mm elsewhere")
