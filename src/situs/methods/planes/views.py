"""Slices of a study, where its other planes cross them, and where they lie in their stacks.

That headers give the labels is the paper's idea (arXiv 2403.16499). Closed-form lines for any
orientation, which slice stands for a role, masks, discs and virtual studies are ours.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from situs.catalog.stacks import AnySeries, Stack, StackSlice
from situs.catalog.studies import by_role, load_rules
from situs.geometry import Plane, PlaneArray, intersect
from situs.geometry.stacks import stack_axis
from situs.methods.base import Batch
from situs.methods.planes.config import PlanesConfig
from situs.methods.planes.frames import in_frame
from situs.views.decoded import Kept
from situs.views.framed import Framed
from situs.views.intensity import jitter_framed
from situs.views.planes import cut_discs, framed_discs
from situs.views.planes_virtual import anatomy_of, draw_slices, prescription
from situs.views.scan_grid import grid_of, stack_axes
from situs.views.slices import draw_poses, posed
from situs.views.source import Source

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StudySlices:
    """K slices to look at.

    Attributes:
        sources: What each is cut from.
        bases: Their planes; each view is posed within its own, about its middle.
        roles: ``(K,)`` index of each stack's role, −1 for none.
        locations: ``(K,)`` place of each in its stack from 0 to 1, NaN for a single slice.
    """

    sources: Sequence[Source]
    bases: PlaneArray
    roles: npt.NDArray[np.int64]
    locations: Array

    def __len__(self) -> int:
        return len(self.sources)

    def part(self, index: slice) -> StudySlices:
        """Some of them."""
        return StudySlices(
            self.sources[index], self.bases[index], self.roles[index], self.locations[index]
        )


def sample_study(item: Sequence[Source], config: PlanesConfig, rng: np.random.Generator) -> Batch:
    """K slices of a study with their targets.

    Returns:
        ``images (K, C, rows, columns)``; ``lines (K, R, 3)`` in pixels of each view and
        ``visible (K, R)``, whether role r's plane is there, crosses the view and is not
        near-parallel (lines are 0 where it does not); ``location (K,)`` and ``located (K,)``;
        ``role (K,)``; and the geometry in RAS mm: ``origin_mm``, ``row_mm``, ``column_mm``
        ``(K, 3)``, ``pixel_mm (K,)``, ``target_mm (R, 2, 3)`` a point and the normal of each
        role's plane, ``present (R,)``; ``scan (K,)`` the index in ``item`` of each slice's scan.
    """
    targets: Sequence[Plane | None]
    if config.studies == "series":
        slices, targets = _real_slices(item, config, rng)
        scans = [next(i for i, scan in enumerate(item) if scan is s) for s in slices.sources]
    else:
        scans = [int(rng.integers(len(item)))] * config.slices
        slices, targets = virtual_slices(item[scans[0]], config, config.slices, rng)
    poses = draw_poses(config.pose, config.slices, rng)
    planes = posed(slices.bases, slices.bases.center_mm, config.grid, poses)
    seen = study_views(slices, planes, config)
    images = jitter_framed(seen, config.intensity, rng) if config.intensity else seen.whole()
    lines, visible = study_lines(slices, planes, targets, config)
    tensors = _tensors(images, planes, slices, targets, lines, visible)
    return {**tensors, "scan": torch.tensor(scans)}


def study_lines(
    slices: StudySlices,
    planes: Sequence[Plane],
    targets: Sequence[Plane | None],
    config: PlanesConfig,
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Lines ``(K, R, 3)``, zero where not visible, and the mask ``(K, R)``."""
    lines = np.zeros((len(planes), len(targets), 3))
    visible = np.zeros(lines.shape[:2], dtype=bool)
    if isinstance(targets, PlaneArray):
        lines, visible = intersect(planes, targets, config.min_angle_deg)
    elif there := [r for r, target in enumerate(targets) if target is not None]:
        found, mask = intersect(planes, [t for t in targets if t is not None], config.min_angle_deg)
        lines[:, there], visible[:, there] = found, mask
    # A stack's own plane is parallel to it, or nearly so where the stack is tilted.
    visible &= slices.roles[:, None] != np.arange(len(targets))
    lines[~visible] = 0
    return lines, visible


def virtual_slices(
    source: Source, config: PlanesConfig, count: int, rng: np.random.Generator
) -> tuple[StudySlices, PlaneArray]:
    """Slices cut at random out of a volume, and the prescribed plane of each role."""
    place = anatomy_of(source)
    drawn = draw_slices(place, config.virtual, count, rng, grid_of(source).room)
    slices = StudySlices([source] * count, drawn.bases, drawn.roles, drawn.locations)
    return slices, prescription(source, tuple(config.virtual.roles.values()))


def _real_slices(
    item: Sequence[Source], config: PlanesConfig, rng: np.random.Generator
) -> tuple[StudySlices, list[Plane | None]]:
    phase = float(rng.uniform())
    chosen = {role: at_phase(s, phase, rng) for role, s in known_stacks(item, config.rules).items()}
    targets = [chosen[r].middle_plane if r in chosen else None for r in config.roles]
    drawn: list[tuple[Stack[Source] | Stack[Told], int, int]] = []
    for _ in range(config.slices):
        if chosen:
            role = list(chosen)[rng.integers(len(chosen))]
            told = chosen[role]
            drawn.append((told, int(rng.integers(len(told.slices))), config.roles.index(role)))
        else:  # nothing recognised: what is left to learn is the place in the stack
            source = item[int(rng.integers(len(item)))]
            axes = stack_axes(source)
            stack = stack_in(source, int(axes[rng.integers(len(axes))]))
            drawn.append((stack, int(rng.integers(len(stack.slices))), -1))
    return slices_of_stacks(drawn, config), targets


@dataclass(frozen=True, eq=False)
class Told:
    """What the stacks of a study are told by, of a scan that can go while they are kept.

    Attributes:
        scan: Gives the scan while it is there.
        shape: Voxels along each axis.
        spacing: Millimetres along each axis.
        affine: ``(4, 4)``, voxel centres to RAS mm.
        description: Role words of the series.
    """

    scan: weakref.ref[Source]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    affine: Array
    description: str

    @classmethod
    def of(cls, scan: Source) -> Told:
        """Of a scan."""
        return cls(weakref.ref(scan), scan.shape, scan.spacing, scan.affine, scan.description)


class _Known(NamedTuple):
    series: list[Told]
    rules: str
    stacks: dict[str, list[Stack[Told]]]

    def of(self, item: Sequence[Source], rules: str) -> bool:
        told = [series.scan() for series in self.series]
        return self.rules == rules and [*map(id, told)] == [*map(id, item)]


_known: Kept[_Known] = Kept(1024, lambda _: 1)


def known_stacks(item: Sequence[Source], rules: str) -> dict[str, list[Stack[Told]]]:
    """The stacks of a study by role; kept, since they are the same at every sample."""

    def found(_: Source) -> _Known:
        series = [Told.of(scan) for scan in item]
        return _Known(series, rules, by_role(series, load_rules(rules)))

    known = _known.of(item[0], found)
    return (known if known.of(item, rules) else found(item[0])).stacks


def at_phase(
    stacks: Sequence[Stack[AnySeries]], phase: float, rng: np.random.Generator
) -> Stack[AnySeries]:
    """One of several stacks of a role: any acquisition, of a cine its frame at this phase.

    Args:
        stacks: Of one role.
        phase: Share of the cycle that is over, the same for all roles of a sample.
        rng: Chooses among acquisitions (several contrasts, repeats).
    """
    acquisitions = sorted({stack.acquisition for stack in stacks})
    chosen = acquisitions[rng.integers(len(acquisitions))]
    frames = [stack for stack in stacks if stack.acquisition == chosen]
    return max((f for f in frames if f.phase <= phase), key=lambda f: f.phase)


def stack_in(source: Source, axis: int | None = None) -> Stack[Source]:
    """The slices of a scan along its stack, or along ``axis`` where it is no stack."""
    own = stack_axis(source.shape, source.spacing)
    along = own if own is not None else 2 if axis is None else axis
    return Stack(tuple(StackSlice(source, along, i) for i in range(source.shape[along])))


def slices_of_stacks(
    drawn: Sequence[tuple[Stack[Source] | Stack[Told], int, int]], config: PlanesConfig
) -> StudySlices:
    """Slices of real stacks, each in the frame of its role.

    Args:
        drawn: Of each its stack, its number in the stack, and the index of the stack's role.
        config: Has the frames.
    """
    found = [_slice_of_stack(*one, config) for one in drawn]
    return StudySlices(
        [_scan(stack.slices[number].series) for stack, number, _ in drawn],
        PlaneArray.of([base for base, _ in found]),
        np.array([role for *_, role in drawn], dtype=np.int64),
        np.array([at for _, at in found]),
    )


def _scan(series: Source | Told) -> Source:
    if not isinstance(series, Told):
        return series
    scan = series.scan()
    assert scan is not None  # whoever asks for a study's stacks holds the study
    return scan


def _slice_of_stack(
    stack: Stack[Source] | Stack[Told], number: int, role: int, config: PlanesConfig
) -> tuple[Plane, float]:
    base, at = stack.slices[number].plane, float(stack.places[number])
    name, frames = config.roles[role] if role >= 0 else "", config.frames or {}
    if name in frames:
        base = in_frame(base, frames[name])
        at = 1 - at if stack.normal_mm @ base.normal_mm < 0 else at
    return base, at


def study_views(slices: StudySlices, planes: Sequence[Plane], config: PlanesConfig) -> Framed:
    """What is seen in K views of slices; cuts of one scan at once."""
    views, middles = PlaneArray.of(planes), slices.bases.center_mm
    radius = config.virtual.radius_mm if config.studies == "virtual" else None
    owners: dict[int, list[int]] = {}
    for number, source in enumerate(slices.sources):
        owners.setdefault(id(source), []).append(number)
    if len(owners) == 1:
        return framed_discs(slices.sources[0], views, middles, radius)
    shape = (len(slices), slices.sources[0].channels, *views.shape[0].tolist())
    images = np.empty(shape, np.float32)
    for mine in owners.values():
        images[mine] = cut_discs(slices.sources[mine[0]], views[mine], middles[mine], radius)
    return Framed.of(images)


def study_images(
    slices: StudySlices, planes: Sequence[Plane], config: PlanesConfig
) -> npt.NDArray[np.float32]:
    """:func:`study_views` as images ``(K, C, rows, columns)``."""
    return study_views(slices, planes, config).whole()


def _tensors(
    images: npt.NDArray[np.float32],
    planes: PlaneArray,
    slices: StudySlices,
    targets: Sequence[Plane | None],
    lines: Array,
    visible: npt.NDArray[np.bool_],
) -> Batch:
    present = np.ones(len(targets), dtype=bool)
    if isinstance(targets, PlaneArray):
        target = np.stack([targets.origin_mm, targets.normal_mm], axis=1)
    else:
        nowhere = np.zeros((2, 3))
        target = np.array([nowhere if t is None else [t.origin_mm, t.normal_mm] for t in targets])
        present = np.array([t is not None for t in targets])
    located, tensor = np.isfinite(slices.locations), torch.from_numpy

    return {
        "images": tensor(images),
        "lines": tensor(lines.astype(np.float32)),
        "visible": tensor(visible),
        "location": tensor(np.where(located, slices.locations, 0).astype(np.float32)),
        "located": tensor(located),
        "role": tensor(slices.roles),
        "origin_mm": tensor(planes.origin_mm),
        "row_mm": tensor(planes.row_mm),
        "column_mm": tensor(planes.column_mm),
        "pixel_mm": tensor(planes.spacing[:, 0]),
        "target_mm": tensor(target),
        "present": tensor(present),
    }
