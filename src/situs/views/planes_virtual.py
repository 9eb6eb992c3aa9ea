"""Virtual studies: double-oblique slices of a volume, prescribed by its anatomy.

Real studies are prescribed by anatomy: the short axis of the heart, the plane of the knee's
condyles. A plain volume has no prescription, so one is made up that any scan of the same body
part gets alike: planes at fixed angles and places relative to the foreground of the scan. Source
slices then lie anywhere and at any tilt, and where the prescribed planes cut them can only be
told from the anatomy they show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator
from scipy.spatial.transform import Rotation

from situs.config import Config
from situs.geometry import Plane
from situs.views.planes import centred_plane

Array = npt.NDArray[np.float64]

_LARGEST_SAMPLE = 32  # voxels along each axis that the foreground is judged on
_TRIM = 0.02  # of the foreground to either side, so that a stray voxel sets no extent


class VirtualRole(Config):
    """Where one plane of the prescription lies.

    Attributes:
        normal: Of the plane, in R, A, S; any length.
        offset: Place along the normal, 0 at the middle of the anatomy, −1 and 1 at its ends.
    """

    normal: tuple[float, float, float]
    offset: float = Field(0.0, ge=-1, le=1)

    @field_validator("normal")
    @classmethod
    def _points_somewhere(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if not np.linalg.norm(value) > 0:
            raise ValueError("a normal must not be zero")
        return value


def _double_oblique() -> dict[str, VirtualRole]:
    """Three planes at right angles, none of them along an axis of the body."""
    names = ("oblique sagittal", "oblique coronal", "oblique axial")
    normals = Rotation.from_euler("zyx", [20, 15, -20], degrees=True).as_matrix().round(3).tolist()
    offsets = (0.1, -0.15, 0.1)
    return {
        name: VirtualRole(normal=(n[0], n[1], n[2]), offset=offset)
        for name, n, offset in zip(names, normals, offsets, strict=True)
    }


class VirtualConfig(Config):
    """How virtual studies are cut.

    Attributes:
        roles: The prescription.
        tilt_deg: Largest angle between a source stack and its role's plane.
        extent: Share of the anatomy that stacks run through.
    """

    roles: dict[str, VirtualRole] = Field(default_factory=_double_oblique, min_length=2)
    tilt_deg: float = Field(20.0, ge=0, lt=90)
    extent: float = Field(0.8, gt=0, le=1)


@dataclass(frozen=True)
class Anatomy:
    """What a prescription is anchored to.

    Attributes:
        center_mm: ``(3,)`` middle of the foreground.
        points_mm: ``(M, 3)`` foreground points, a sample.
    """

    center_mm: Array
    points_mm: Array

    def reach_mm(self, normal_mm: npt.ArrayLike) -> tuple[float, float]:
        """Signed distances from the centre to the ends of the anatomy along a unit normal."""
        along = (self.points_mm - self.center_mm) @ np.asarray(normal_mm, dtype=np.float64)
        low, high = np.quantile(along, [_TRIM, 1 - _TRIM])
        return float(low), float(high)


class VirtualSlice(NamedTuple):
    """A slice of a source stack: its plane before in-plane posing, its role's index, its place.

    ``location`` runs from 0 at the first slice of the stack to 1 at the last.
    """

    base: Plane
    role: int
    location: float


def anatomy(array: npt.NDArray[np.floating], affine: npt.ArrayLike) -> Anatomy:
    """The foreground of a scan: voxels above its mean intensity.

    Args:
        array: ``(C, X, Y, Z)``; the first channel is looked at.
        affine: ``(4, 4)``, voxel centres to RAS mm.
    """
    steps = [-(-n // _LARGEST_SAMPLE) for n in array.shape[1:]]
    coarse = array[0, :: steps[0], :: steps[1], :: steps[2]]
    foreground = coarse > coarse.mean()
    if not foreground.any():  # a constant scan
        foreground = np.ones_like(foreground)
    matrix = np.asarray(affine, dtype=np.float64)
    vox = np.argwhere(foreground) * steps
    points = vox @ matrix[:3, :3].T + matrix[:3, 3]
    return Anatomy(points.mean(0), points)


def prescribed_planes(place: Anatomy, roles: Sequence[VirtualRole]) -> list[Plane]:
    """The plane of each role, as an image of one pixel: only its pose matters."""
    planes = []
    for role in roles:
        normal = np.asarray(role.normal) / np.linalg.norm(role.normal)
        reach = place.reach_mm(normal)
        point = place.center_mm + abs(role.offset) * reach[role.offset > 0] * normal
        row, column = in_plane_axes(normal)
        planes.append(centred_plane(point, row, column, (1, 1), (1.0, 1.0)))
    return planes


def draw_slice(place: Anatomy, config: VirtualConfig, rng: np.random.Generator) -> VirtualSlice:
    """A random slice of a random role's stack, tilted as a whole."""
    roles = list(config.roles.values())
    role = int(rng.integers(len(roles)))
    normal = np.asarray(roles[role].normal) / np.linalg.norm(roles[role].normal)
    row, column = in_plane_axes(normal)
    axis = rng.normal(size=3)
    turn = np.radians(rng.uniform(0, config.tilt_deg)) * axis / np.linalg.norm(axis)
    tilt = Rotation.from_rotvec(turn).as_matrix()
    location = float(rng.uniform())
    return VirtualSlice(
        stack_slice(place, config, tilt @ row, tilt @ column, location), role, location
    )


def stack_slice(
    place: Anatomy, config: VirtualConfig, row: Array, column: Array, location: float
) -> Plane:
    """The slice at ``location`` of a stack with these in-plane directions."""
    normal = np.cross(row, column)
    low, high = place.reach_mm(normal)
    along = config.extent * (low + location * (high - low))
    return centred_plane(place.center_mm + along * normal, row, column, (1, 1), (1.0, 1.0))


def in_plane_axes(normal: npt.ArrayLike) -> tuple[Array, Array]:
    """Unit row and column directions of a plane, row × column = normal.

    Rows run as far as possible to the patient's right, or to the front in sagittal planes.
    """
    unit = np.asarray(normal, dtype=np.float64) / np.linalg.norm(normal)
    along = np.eye(3)[1 if np.abs(unit).argmax() == 0 else 0]
    row = along - (along @ unit) * unit
    row /= np.linalg.norm(row)
    return row, np.cross(unit, row)
