"""Slices of a study, where its other planes cross them, and where they lie in their stacks.

That headers give the labels is the paper's idea (arXiv 2403.16499). Closed-form lines for any
orientation, which slice stands for a role, masks, discs and virtual studies are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from situs.catalog.stacks import Stack, StackSlice
from situs.catalog.studies import by_role, load_rules
from situs.geometry import Plane, intersect
from situs.geometry.stacks import stack_axis
from situs.methods.base import Batch
from situs.methods.planes.config import PlanesConfig
from situs.methods.planes.frames import in_frame
from situs.views.decoded import Kept
from situs.views.inside import Room
from situs.views.intensity import jitter
from situs.views.planes import cut_discs
from situs.views.planes_virtual import anatomy_of, draw_slices, prescription
from situs.views.slices import draw_pose, posed, stack_axes
from situs.views.source import Source

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StudySlice:
    """One slice to look at.

    Attributes:
        source: What it is cut from.
        base: Its plane; the view is posed within it, about its middle.
        role: Index of its stack's role, −1 for none.
        location: Place in its stack from 0 to 1, NaN for a single slice.
    """

    source: Source
    base: Plane
    role: int
    location: float


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
    if config.studies == "series":
        slices, targets = _real_slices(item, config, rng)
        scans = [next(i for i, scan in enumerate(item) if scan is s.source) for s in slices]
    else:
        scans = [int(rng.integers(len(item)))] * config.slices
        slices, targets = virtual_slices(item[scans[0]], config, config.slices, rng)
    planes = [posed(s.base, s.base.center_mm, config.grid, draw_pose(config.pose, rng))
              for s in slices]  # fmt: skip
    images = study_images(slices, planes, config)
    if config.intensity is not None:
        jitter(images, config.intensity, rng)
    lines, visible = study_lines(slices, planes, targets, config)
    tensors = _tensors(images, planes, slices, targets, lines, visible)
    return {**tensors, "scan": torch.tensor(scans)}


def study_lines(
    slices: Sequence[StudySlice],
    planes: Sequence[Plane],
    targets: Sequence[Plane | None],
    config: PlanesConfig,
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Lines ``(K, R, 3)``, zero where not visible, and the mask ``(K, R)``."""
    lines = np.zeros((len(planes), len(targets), 3))
    visible = np.zeros(lines.shape[:2], dtype=bool)
    there = [r for r, target in enumerate(targets) if target is not None]
    if there:
        found, mask = intersect(planes, [t for t in targets if t is not None], config.min_angle_deg)
        lines[:, there], visible[:, there] = found, mask
    # A stack's own plane is parallel to it, or nearly so where the stack is tilted.
    visible &= np.array([s.role for s in slices])[:, None] != np.arange(len(targets))
    lines[~visible] = 0
    return lines, visible


def virtual_slices(
    source: Source, config: PlanesConfig, count: int, rng: np.random.Generator
) -> tuple[list[StudySlice], list[Plane | None]]:
    """Slices cut at random out of a volume, and the prescribed plane of each role."""
    place = anatomy_of(source)
    drawn = draw_slices(place, config.virtual, count, rng, Room.of(source))
    slices = [StudySlice(source, d.base, d.role, d.location) for d in drawn]
    return slices, [*prescription(source, tuple(config.virtual.roles.values()))]


def _real_slices(
    item: Sequence[Source], config: PlanesConfig, rng: np.random.Generator
) -> tuple[list[StudySlice], list[Plane | None]]:
    phase = float(rng.uniform())
    chosen = {role: at_phase(s, phase, rng) for role, s in known_stacks(item, config.rules).items()}
    targets = [chosen[r].middle_plane if r in chosen else None for r in config.roles]
    slices = []
    for _ in range(config.slices):
        if chosen:
            role = list(chosen)[rng.integers(len(chosen))]
            stack, index = chosen[role], config.roles.index(role)
        else:  # nothing recognised: what is left to learn is the place in the stack
            source = item[int(rng.integers(len(item)))]
            axes = stack_axes(source)
            stack, index = stack_in(source, int(axes[rng.integers(len(axes))])), -1
        slices.append(slice_of_stack(stack, int(rng.integers(len(stack.slices))), index, config))
    return slices, targets


_known: Kept[tuple[tuple[int, ...], str, dict[str, list[Stack[Source]]]]] = Kept(1024, lambda _: 1)


def known_stacks(item: Sequence[Source], rules: str) -> dict[str, list[Stack[Source]]]:
    """The stacks of a study by role; kept, since they are the same at every sample."""
    asked = (*map(id, item),)

    def found(_: Source) -> tuple[tuple[int, ...], str, dict[str, list[Stack[Source]]]]:
        return asked, rules, by_role(item, load_rules(rules))

    known = _known.of(item[0], found)
    return (known if known[:2] == (asked, rules) else found(item[0]))[2]


def at_phase(
    stacks: Sequence[Stack[Source]], phase: float, rng: np.random.Generator
) -> Stack[Source]:
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


def slice_of_stack(stack: Stack[Source], index: int, role: int, config: PlanesConfig) -> StudySlice:
    """One slice of a real stack, in the frame of its role."""
    one = stack.slices[index]
    source, base, at = one.series, one.plane, float(stack.places[index])
    name, frames = config.roles[role] if role >= 0 else "", config.frames or {}
    if name in frames:
        base = in_frame(base, frames[name])
        at = 1 - at if stack.normal_mm @ base.normal_mm < 0 else at
    return StudySlice(source, base, role, at)


def study_images(
    slices: Sequence[StudySlice], planes: Sequence[Plane], config: PlanesConfig
) -> npt.NDArray[np.float32]:
    """What is seen in views of slices, ``(K, C, rows, columns)``; cuts of one scan at once."""
    owner = np.array([id(s.source) for s in slices])
    images = np.empty((len(slices), slices[0].source.channels, *planes[0].shape), np.float32)
    radius = config.virtual.radius_mm if config.studies == "virtual" else None
    for source in {id(s.source): s.source for s in slices}.values():
        mine = np.flatnonzero(owner == id(source)).tolist()
        middles = [slices[k].base.center_mm for k in mine]
        images[mine] = cut_discs(source, [planes[k] for k in mine], middles, radius)
    return images


def _tensors(
    images: npt.NDArray[np.float32],
    planes: Sequence[Plane],
    slices: Sequence[StudySlice],
    targets: Sequence[Plane | None],
    lines: Array,
    visible: npt.NDArray[np.bool_],
) -> Batch:
    location = np.array([s.location for s in slices])
    nowhere = np.zeros((2, 3))
    target = [nowhere if t is None else np.stack([t.origin_mm, t.normal_mm]) for t in targets]

    def tensor(values: npt.ArrayLike) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values))

    return {
        "images": tensor(images),
        "lines": tensor(lines.astype(np.float32)),
        "visible": tensor(visible),
        "location": tensor(np.nan_to_num(location).astype(np.float32)),
        "located": tensor(np.isfinite(location)),
        "role": tensor([s.role for s in slices]),
        "origin_mm": tensor([p.origin_mm for p in planes]),
        "row_mm": tensor([p.row_mm for p in planes]),
        "column_mm": tensor([p.column_mm for p in planes]),
        "pixel_mm": tensor([p.spacing[0] for p in planes]),
        "target_mm": tensor(np.stack(target)),
        "present": tensor([t is not None for t in targets]),
    }
