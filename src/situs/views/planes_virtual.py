"""Virtual studies: double-oblique slices of a volume, prescribed by its anatomy.

Real studies are prescribed by anatomy: the short axis of the heart, the plane of the knee's
condyles. A plain volume has no prescription, so one is made up that any scan of the same body
part gets alike: planes at fixed angles and places relative to the foreground of the scan. Source
slices then lie anywhere and at any tilt, and where the prescribed planes cross them can only be
told from the anatomy they show.

Ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveFloat, field_validator
from scipy.spatial.transform import Rotation

from situs.config import Config
from situs.geometry import Plane, PlaneArray
from situs.geometry.planes import cross
from situs.views.controls import original
from situs.views.decoded import Kept, decoded, keepable
from situs.views.inside import Room
from situs.views.planes import centred_plane, centred_planes
from situs.views.source import ArraySource, Source

Array = npt.NDArray[np.float64]

_LARGEST_SAMPLE = 32  # voxels along each axis that the foreground is judged on
# Drawn for each slice until its disc lies inside the scan.
_PLACES, _POINTS = 8, 96
_SHOWN = 0.8  # of the scan's least extent
_EVERY = 16  # values of a sample that says which ones to sort
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
        shown: ``"inside"`` shows of every slice a disc of one size that lies wholly inside the
            scan, so that its border does not tell how the slice lies in it; ``"all"`` shows
            slices whole, border and all.
        shown_mm: Diameter of the disc; None fits the data.
    """

    roles: dict[str, VirtualRole] = Field(default_factory=_double_oblique, min_length=2)
    tilt_deg: float = Field(20.0, ge=0, lt=90)
    extent: float = Field(0.8, gt=0, le=1)
    shown: Literal["inside", "all"] = "inside"
    shown_mm: PositiveFloat | None = None

    @property
    def radius_mm(self) -> float | None:
        """Of the disc that is shown; None where slices are shown whole."""
        if self.shown == "all" or self.shown_mm is None:
            return None
        return self.shown_mm / 2


@dataclass(frozen=True)
class Anatomy:
    """What a prescription is anchored to.

    Attributes:
        center_mm: ``(3,)`` middle of the foreground.
        points_mm: ``(M, 3)`` foreground points, a sample.
    """

    center_mm: Array
    points_mm: Array

    def reach_mm(self, normal_mm: npt.ArrayLike) -> Array:
        """Signed distances from the centre to the ends of the anatomy along unit normals.

        Args:
            normal_mm: ``(…, 3)``.

        Returns:
            ``(…, 2)``, low and high: the 2nd and 98th percentile of the foreground.
        """
        normals = np.asarray(normal_mm, dtype=np.float64)
        along = normals.reshape(-1, 3) @ self._offsets
        return _ends(along, _TRIM).reshape(*normals.shape[:-1], 2)

    @cached_property
    def _offsets(self) -> Array:
        """``(3, M)``, from the centre to the points."""
        return np.ascontiguousarray((self.points_mm - self.center_mm).T)


def _ends(values: Array, share: float) -> Array:
    """``np.quantile`` of a small share to either side of rows ``(K, M)``, in a quarter of the time.

    Only the lowest and the highest are sorted; a sample says about where they begin.

    Returns:
        ``(K, 2)``.
    """
    at = share * (values.shape[1] - 1)
    first = int(at)
    every = np.sort(values[:, ::_EVERY], axis=1)
    bound = min(2 * first // _EVERY + 4, every.shape[1] - 1)
    bounds = zip(values, every[:, bound].tolist(), every[:, -1 - bound].tolist(), strict=True)
    ends = []
    for row, below, above in bounds:
        low, high = row[row <= below], row[row >= above]
        if min(len(low), len(high)) < first + 2:  # a freak of the sample
            low = high = row
        low.sort()
        high.sort()
        near = min(first + 1, len(low) - 1)
        a, b, c, d = low[first], low[near], high[-1 - first], high[-1 - near]
        ends.append((a + (at - first) * (b - a), c + (at - first) * (d - c)))
    return np.array(ends)


class VirtualSlices(NamedTuple):
    """Slices of source stacks.

    Attributes:
        bases: Their planes before in-plane posing.
        roles: ``(K,)`` index of each one's role.
        locations: ``(K,)`` place in its stack, 0 at the first slice and 1 at the last.
    """

    bases: PlaneArray
    roles: npt.NDArray[np.int64]
    locations: Array


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


def anatomy_of(source: Source) -> Anatomy:
    """The anatomy of a scan; kept, since it is the same at every sample.

    A control without anatomy is prescribed as the scan itself is.
    """
    source = original(source)
    if isinstance(source, ArraySource):
        return anatomy(source.array, source.affine)
    return _anatomies.of(source, _read_anatomy)


def _read_anatomy(source: Source) -> Anatomy:
    if keepable(source):
        return anatomy(decoded(source)[:, 1:-1, 1:-1, 1:-1], source.affine)
    return anatomy(source.read((0, 0, 0), source.shape), source.affine)


# Once as points, once as what they are from the centre.
_anatomies: Kept[Anatomy] = Kept(2**27, lambda place: 2 * place.points_mm.nbytes)


def fitted_disc(sources: Sequence[Source], config: VirtualConfig) -> VirtualConfig:
    """The configuration with the size of the disc filled in: a share of the scans' least extent.

    Larger discs show more and fit in fewer places.
    """
    if config.shown == "all" or config.shown_mm is not None:
        return config
    extents = [min(np.multiply(s.shape, s.spacing)) for s in sources]
    size = round(_SHOWN * float(np.median(extents)), 3)
    return config.model_copy(update={"shown_mm": size})


def prescribed_planes(place: Anatomy, roles: Sequence[VirtualRole]) -> list[Plane]:
    """The plane of each role, as an image of one pixel: only its pose matters."""
    normals = np.stack([_unit(role.normal) for role in roles])
    planes = []
    for role, normal, reach in zip(roles, normals, place.reach_mm(normals), strict=True):
        point = place.center_mm + abs(role.offset) * reach[int(role.offset > 0)] * normal
        row, column = in_plane_axes(normal)
        planes.append(centred_plane(point, row, column, (1, 1), (1.0, 1.0)))
    return planes


_prescriptions: Kept[tuple[tuple[VirtualRole, ...], PlaneArray]] = Kept(1024, lambda _: 1)


def prescription(source: Source, roles: tuple[VirtualRole, ...]) -> PlaneArray:
    """The plane of each role in a scan; kept, since they are the same at every sample."""
    source = original(source)

    def found(scan: Source) -> tuple[tuple[VirtualRole, ...], PlaneArray]:
        return roles, PlaneArray.of(prescribed_planes(anatomy_of(scan), roles))

    if isinstance(source, ArraySource):
        return found(source)[1]
    known = _prescriptions.of(source, found)
    return (known if known[0] == roles else found(source))[1]


def draw_slices(
    place: Anatomy, config: VirtualConfig, count: int, rng: np.random.Generator, room: Room
) -> VirtualSlices:
    """Random slices of random roles' stacks, each stack tilted as a whole.

    Where slices show a disc, its centre is the slice's: places along the stack and within the
    slice are drawn until the disc lies inside the room.

    Args:
        place: What the stacks run through.
        config: How they are cut.
        count: Slices.
        rng: Source of randomness.
        room: The inside of the scan.
    """
    frames = _frames(tuple(role.normal for role in config.roles.values()))
    roles = rng.integers(len(frames), size=count)
    axis = rng.normal(size=(count, 3))
    turn = np.radians(rng.uniform(0, config.tilt_deg, count))[:, None] * axis
    tilt = Rotation.from_rotvec(turn / np.linalg.norm(axis, axis=1, keepdims=True)).as_matrix()
    axes = frames[roles] @ tilt.transpose(0, 2, 1)
    if config.radius_mm is None:
        location = rng.uniform(size=count)
        centers = stack_centers(place, config, axes, location[:, None])[:, 0]
    else:
        places = rng.uniform(size=(count, _PLACES))
        within = rng.uniform(-0.5, 0.5, (count, _POINTS, 2)) * room.size_mm
        middles = stack_centers(place, config, axes, places)
        centers, chosen = _discs(middles, within, axes, config.radius_mm, room)
        location = places[np.arange(count), chosen]
    return VirtualSlices(_bases(centers, axes), roles, location)


def stack_slices(
    place: Anatomy, config: VirtualConfig, axes: Array, location: Array, room: Room
) -> PlaneArray:
    """Slices through one untilted or tilted stack, each about the most central disc that fits.

    Args:
        place: What the stack runs through.
        config: Says how far, and what is shown.
        axes: ``(2, 3)`` row and column direction of the stack.
        location: ``(K,)`` place of each slice in it.
        room: The inside of the scan.
    """
    each = np.repeat(axes[None], len(location), axis=0)
    centers = stack_centers(place, config, each, location[:, None])
    if config.radius_mm is not None:
        steps = np.linspace(-0.5, 0.5, 41) * room.size_mm
        grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        grid = grid[np.argsort(np.linalg.norm(grid, axis=1), kind="stable")]
        within = np.repeat(grid[None], len(location), axis=0)
        centers = _discs(centers, within, each, config.radius_mm, room)[0][:, None]
    return _bases(centers[:, 0], each)


def stack_centers(place: Anatomy, config: VirtualConfig, axes: Array, location: Array) -> Array:
    """Middles of slices ``(K, L, 3)`` at the places ``location (K, L)`` of K stacks."""
    normals = cross(axes[:, 0], axes[:, 1])
    low, high = place.reach_mm(normals).T[..., None]
    along = config.extent * (low + location * (high - low))
    centers: Array = place.center_mm + along[..., None] * normals[:, None]
    return centers


def _discs(
    middles: Array, within: Array, axes: Array, radius_mm: float, room: Room
) -> tuple[Array, npt.NDArray[np.int64]]:
    """The first disc of each slice that fits, or the one that comes closest to it, moved in.

    Args:
        middles: ``(K, L, 3)`` middles of the slice at L places.
        within: ``(K, P, 2)`` places of discs in the slice along its rows and columns, in mm.
        axes: ``(K, 2, 3)``.
        radius_mm: Of the discs.
        room: That they should lie in.

    Returns:
        Centres ``(K, 3)``, and which of the L places was taken ``(K,)``.
    """
    # Most slices find room at the first place: the others are looked at for those that do not.
    found, slack, _ = _best_discs(middles[:, :1], within, axes, radius_mm, room)
    at = np.zeros(len(axes), dtype=np.int64)
    short = np.flatnonzero(slack < 0)
    if len(short):
        found[short], slack[short], at[short] = _best_discs(
            middles[short], within[short], axes[short], radius_mm, room
        )
        short = np.flatnonzero(slack < 0)
    if len(short):
        found[short] = room.moved_in(found[short], axes[short], radius_mm)
    return found, at


def _best_discs(
    middles: Array, within: Array, axes: Array, radius_mm: float, room: Room
) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    """The first disc of each slice that fits, or the one that comes closest to it.

    Returns:
        Centres ``(K, 3)``; how far they lie inside, at most 0; which place each was found at.
    """
    slack = np.minimum(room.slack_mm(middles, within, axes, radius_mm), 0).reshape(len(axes), -1)
    chosen = slack.argmax(1)  # the first of equals
    at, point = np.divmod(chosen, within.shape[1])
    each = np.arange(len(at))
    centers = middles[each, at] + (within[each, None, point] @ axes)[:, 0]
    return centers, slack[each, chosen], at


def _bases(centers: Array, axes: Array) -> PlaneArray:
    return centred_planes(centers, axes[:, 0], axes[:, 1], (1, 1), 1.0)


@lru_cache(maxsize=64)
def _axes_of(normal: tuple[float, float, float]) -> tuple[Array, Array]:
    unit = _unit(normal)
    along = np.eye(3)[1 if np.abs(unit).argmax() == 0 else 0]
    row = along - (along @ unit) * unit
    row /= np.linalg.norm(row)
    return row, np.cross(unit, row)


@lru_cache(maxsize=64)
def _frames(normals: tuple[tuple[float, float, float], ...]) -> Array:
    """``(R, 2, 3)`` row and column directions; not to be written to."""
    return np.array([in_plane_axes(normal) for normal in normals])


def _unit(normal: npt.ArrayLike) -> Array:
    unit = np.asarray(normal, dtype=np.float64)
    return unit / np.linalg.norm(unit)


def in_plane_axes(normal: npt.ArrayLike) -> tuple[Array, Array]:
    """Unit row and column directions of a plane, row × column = normal.

    Rows run as far as possible to the patient's right, or to the front in sagittal planes.
    """
    x, y, z = np.asarray(normal, dtype=np.float64).tolist()
    row, column = _axes_of((x, y, z))
    return row.copy(), column.copy()
