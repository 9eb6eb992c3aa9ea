"""Stacks of a study: slices that lie one behind another, whether one series holds them or many.

A cardiac short axis is often acquired a slice a series, in one breath-hold each. Such slices are
put together by geometry: parallel, one behind another, in one frame of reference. Time frames of a
cine are told apart by their order and matched by their share of the cycle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from situs.geometry import Plane
from situs.geometry.stacks import stack_axis

Array = npt.NDArray[np.float64]

_PARALLEL_DEG = 2.0
_SAME_DEG = 0.5
_APART = 0.25  # of a slice's thickness: closer slices are one
_LEAST_SLICES = 3  # that single slices are put together to


class Series(Protocol):
    """What is put together; a :class:`~situs.methods.base.Source` is one."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres along each axis."""

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """``(4, 4)``, voxel centres to RAS mm."""

    @property
    def description(self) -> str:
        """Recognised words."""


AnySeries = TypeVar("AnySeries", bound=Series)


@dataclass(frozen=True)
class StackSlice(Generic[AnySeries]):
    """A slice of a series: the axis it is stacked along, and its index."""

    series: AnySeries
    axis: int
    index: int

    @property
    def plane(self) -> Plane:
        """Its geometry."""
        return Plane.from_affine(self.series.affine, self.axis, self.index, self.series.shape)


@dataclass(frozen=True)
class Stack(Generic[AnySeries]):
    """Slices in order, from one series or put together from several.

    Attributes:
        slices: In order along one direction.
        phase: Share of the cycle that was over when its time frame began; 0 for a single one.
        acquisition: Number within the study; the frames of one cine share it.
    """

    slices: tuple[StackSlice[AnySeries], ...]
    phase: float = 0.0
    acquisition: int = 0

    @classmethod
    def of(cls, series: AnySeries, phase: float = 0.0, acquisition: int = 0) -> Stack[AnySeries]:
        """The stack that one series holds.

        Raises:
            ValueError: For an isotropic volume.
        """
        axis = stack_axis(series.shape, series.spacing)
        if axis is None:
            raise ValueError("an isotropic volume is no stack of slices")
        slices = tuple(StackSlice(series, axis, i) for i in range(series.shape[axis]))
        return cls(slices, phase, acquisition)

    @property
    def series(self) -> tuple[AnySeries, ...]:
        """Those that its slices come from, each once."""
        return tuple({id(s.series): s.series for s in self.slices}.values())

    @property
    def description(self) -> str:
        """Recognised words of its series; the same for all of them."""
        return self.slices[0].series.description

    @cached_property
    def normal_mm(self) -> Array:
        """Unit normal ``(3,)`` of its slices, from the first towards the last."""
        first = self.slices[0]
        if len(self.slices) == 1:
            along = first.series.affine[:3, first.axis]
        else:
            along = self.slices[-1].plane.center_mm - first.plane.center_mm
        normal = first.plane.normal_mm
        return normal if normal @ along >= 0 else -normal

    @cached_property
    def places(self) -> Array:
        """Of each slice the share of the way from the first to the last; NaN of a single one."""
        along = np.array([s.plane.center_mm @ self.normal_mm for s in self.slices])
        if len(along) == 1:
            return np.full(1, np.nan)
        places: Array = (along - along[0]) / (along[-1] - along[0])
        return places

    @cached_property
    def middle_plane(self) -> Plane:
        """The plane that it stands for: halfway between its first and last slice."""
        first, last = self.slices[0], self.slices[-1]
        if first.series is last.series:
            middle = (first.index + last.index) / 2
            return Plane.from_affine(first.series.affine, first.axis, middle, first.series.shape)
        plane = first.plane
        way = (last.plane.center_mm - plane.center_mm) @ self.normal_mm
        origin = plane.origin_mm + way / 2 * self.normal_mm
        return Plane(origin, plane.row_mm, plane.column_mm, plane.shape, plane.spacing)


def stacks_of(study: Sequence[AnySeries]) -> list[Stack[AnySeries]]:
    """Every series of a study as a stack, the time frames of one acquisition together.

    Isotropic volumes are left out. Frames are series that follow one another in the study and
    show one place under the same words; one that comes back to a place later is a repeat.
    """
    groups: list[list[Stack[AnySeries]]] = []
    for series in study:
        if stack_axis(series.shape, series.spacing) is None:
            continue
        stack = Stack.of(series)
        if groups and _same_place(groups[-1][0], stack):
            groups[-1].append(stack)
        else:
            groups.append([stack])
    return [
        replace(stack, phase=number / len(group), acquisition=acquisition)
        for acquisition, group in enumerate(groups)
        for number, stack in enumerate(group)
    ]


def assembled(
    stacks: Iterable[Stack[AnySeries]], first_acquisition: int = 0
) -> list[Stack[AnySeries]]:
    """Stacks of three slices or more that single slices can be put together to, frame by frame.

    Slices belong together where they are parallel to within 2°, lie behind one another, have
    pixels of one size and carry the same words. Of several slices of one place the first is
    taken. Where series have different numbers of time frames, each gives the frame of the same
    share of the cycle.

    Args:
        stacks: Of :func:`stacks_of`; those of one slice are looked at.
        first_acquisition: Number of the first stack that is made.
    """
    cines: dict[int, list[Stack[AnySeries]]] = {}
    for stack in stacks:
        if len(stack.slices) == 1:
            cines.setdefault(stack.acquisition, []).append(stack)
    groups: list[list[list[Stack[AnySeries]]]] = []
    for cine in cines.values():
        one = cine[0].slices[0]
        for group in groups:
            if _behind(group[0][0].slices[0], one):
                group.append(cine)
                break
        else:
            groups.append([cine])
    made: list[Stack[AnySeries]] = []
    for group in groups:
        ordered = _in_order(group)
        if len(ordered) >= _LEAST_SLICES:
            number = first_acquisition + len({stack.acquisition for stack in made})
            made += _frames(ordered, number)
    return made


def _frames(cines: Sequence[Sequence[Stack[AnySeries]]], number: int) -> list[Stack[AnySeries]]:
    """One stack a frame of the cine that has most."""
    count = max(len(cine) for cine in cines)
    return [
        Stack(tuple(c[frame * len(c) // count].slices[0] for c in cines), frame / count, number)
        for frame in range(count)
    ]


def _in_order(group: list[list[Stack[AnySeries]]]) -> list[list[Stack[AnySeries]]]:
    """Along the normal of the first, each place once."""
    first = group[0][0].slices[0]
    normal, step = first.plane.normal_mm, _APART * first.series.spacing[first.axis]
    along = [cine[0].slices[0].plane.center_mm @ normal for cine in group]
    kept: list[int] = []
    for at in np.argsort(along, kind="stable").tolist():
        if not kept or along[at] - along[kept[-1]] > step:
            kept.append(at)
    return [group[at] for at in kept]


def _same_place(a: Stack[AnySeries], b: Stack[AnySeries]) -> bool:
    """Whether two series are frames of one acquisition."""
    if a.description != b.description or len(a.slices) != len(b.slices):
        return False
    thickness, other = (s.slices[0].series.spacing[s.slices[0].axis] for s in (a, b))
    if abs(thickness - other) > 0.02 * thickness:
        return False
    away = abs(a.middle_plane.distance_mm(b.middle_plane.center_mm))
    return _angle_deg(a.normal_mm, b.normal_mm) < _SAME_DEG and float(away) < _APART * thickness


def _behind(one: StackSlice[AnySeries], other: StackSlice[AnySeries]) -> bool:
    """Whether two slices can belong to one stack."""
    a, b = one.plane, other.plane
    if one.series.description != other.series.description:
        return False
    if not np.allclose(sorted(a.spacing), sorted(b.spacing), rtol=0.02):
        return False
    if _angle_deg(a.normal_mm, b.normal_mm) > _PARALLEL_DEG:
        return False
    between = b.center_mm - a.center_mm
    aside = float(np.linalg.norm(between - (between @ a.normal_mm) * a.normal_mm))
    return aside < 0.5 * float(min(np.multiply(a.shape, a.spacing)))


def _angle_deg(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Between two axes, signs aside."""
    cosine = abs(float(np.dot(one, other)))
    return float(np.degrees(np.arccos(min(1.0, cosine))))
