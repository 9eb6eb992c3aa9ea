"""What ``planes`` shows of view planning: planes put together from lines in other views.

Planes from lines in several views, and their two measures, are those of arXiv 2309.12805.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from situs.geometry import Plane, intersect
from situs.methods.base import Batch, Samples, Scores
from situs.methods.measured import Measured
from situs.methods.planes.config import PlanesConfig
from situs.methods.planes.plan import PlannedPlane
from situs.methods.planes.predictions import Array, Lines, Predictions, lines_panel, truth
from situs.methods.planes.scoring import (
    Errors,
    acquired_plane,
    deviations,
    measured,
    plan_planes,
    views_of,
)
from situs.methods.preview import WholeScans
from situs.observation import LinesPanel, Section
from situs.views.decoded import Kept

_SHOWN = 2


def measure_planning(found: Predictions, samples: Samples) -> list[Measured]:
    """Planned beside acquired planes, in degrees and mm."""
    true = truth(samples.batch)
    errors = deviations(samples.batch, found.planned)
    guesses = _known_guesses(samples)
    labels = (
        "angle of the planned plane to the true one",
        "distance of the true plane's centre from the planned plane",
    )
    chance, constant = guesses.chance, guesses.constant
    return measured("plan", labels, errors, chance, constant, len(true.lines))


class _Guesses(NamedTuple):
    batch: Batch  # without images
    chance: Errors
    constant: Errors


def _guesses(batch: Batch) -> _Guesses:
    true = truth(batch)
    chance = Errors(*np.full((2, *batch["present"].shape), np.nan))
    if len(true.lines) > 1:  # each study is planned with the lines of the next one
        borrowed = np.where(np.roll(true.visible, 1, axis=0), 1.0, 0.0)
        chance = deviations(batch, plan_planes(batch, np.roll(true.lines, 1, axis=0), borrowed))
    # The mean lines, in every view that truly shows one.
    constant = deviations(batch, plan_planes(batch, true.constant, true.visible.astype(float)))
    told = {name: values for name, values in batch.items() if name != "images"}
    return _Guesses(told, chance, constant)


_kept: Kept[_Guesses] = Kept(16, lambda _: 1)


def _known_guesses(samples: Samples) -> _Guesses:
    """What guessing plans; kept, since a run's observations look at the same samples."""
    batch = samples.batch
    known = _kept.of(samples.scans[0], lambda _: _guesses(batch))
    same = all(torch.equal(batch[name], values) for name, values in known.batch.items())
    return known if same else _guesses(batch)


def planned_section(
    config: PlanesConfig, found: Predictions, samples: Samples, whole: WholeScans, scores: Scores
) -> Section:
    """The planes planned for each study, and where they cross one of its slices."""
    batch = samples.batch
    planned = found.planned
    solved = np.isfinite(deviations(batch, planned)[0]).mean()
    return Section(
        title="Planes planned from lines in other views",
        explanation=(
            f"The lines of each plane in the study's other slices are put together to the plane "
            f"that fits them best ({batch['images'].shape[1]} slices a study). "
            f"{100 * solved:.0f} % of the planes had enough confident lines; chance plans with "
            "another study's lines, the constant answer with mean lines."
        ),
        scores=scores.of("plan_angle", "plan_distance"),
        panels=tuple(
            _panel(config, samples, b, planned[b], whole)
            for b in range(min(_SHOWN, len(planned)))
            if any(planned[b])
        ),
    )


def _panel(
    config: PlanesConfig,
    samples: Samples,
    sample: int,
    planned: Sequence[PlannedPlane | None],
    whole: WholeScans,
) -> LinesPanel:
    """The slice that most planned planes cross, with the lines they cross it in."""
    batch = samples.batch
    views, role_of = views_of(batch, sample), batch["role"][sample].tolist()
    roles = [r for r, plane in enumerate(planned) if plane is not None]
    true = _cuts(views, [acquired_plane(batch, sample, r) for r in roles])
    found = _cuts(views, [p.plane((1, 1), (1.0, 1.0)) for p in planned if p is not None])
    # A plane's own slices do not cross it: the slice shown must lie across it.
    shows = np.isfinite(true).all(-1) & (np.array(role_of)[:, None] != roles)
    image = int(shows.sum(1).argmax())
    shown = np.flatnonzero(shows[image])
    names = tuple(config.roles[roles[i]] for i in shown)
    used = [len(plane.views) for plane in planned if plane is not None]
    parts = ", ".join(f"{n} from {used[i]} lines" for n, i in zip(names, shown, strict=True))
    nothing = np.zeros((0, *batch["images"].shape[-2:]))
    lines = Lines(found[image, shown], true[image, shown], nothing, names)
    caption = (
        "Where the planned planes cross the slice, beside the true ones: "
        f"{parts or 'none of them does'}."
    )
    title = "Planned planes in a slice of"
    return lines_panel(samples, (sample, image), whole, lines, title, caption)


def _cuts(views: Sequence[Plane], planes: Sequence[Plane]) -> Array:
    """``(views, planes, 3)`` lines, NaN where a plane misses the image."""
    lines, mask = intersect(views, planes)
    return np.where(mask[..., None], lines, np.nan)
