"""What ``planes`` shows of view planning: planes put together from lines in other views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from situs.geometry import Plane, intersect
from situs.methods.base import Batch
from situs.methods.planes.config import PlanesConfig
from situs.methods.planes.plan import PlannedPlane
from situs.methods.planes.predictions import Array, Seen, each, mean
from situs.methods.planes.scoring import acquired_plane, deviations, plan_planes, views_of
from situs.methods.preview import WholeScans
from situs.observation import LinesPanel, Score, Section
from situs.views.source import Source

_SHOWN = 2


def planned_section(
    config: PlanesConfig,
    seen: Seen,
    batch: Batch,
    scans: Sequence[Sequence[Source]],
    whole: WholeScans,
) -> Section:
    """Scores of the planes planned for each study, and where they cut one of its slices."""
    planned = plan_planes(batch, seen.lines, seen.confidence)
    angle, distance = deviations(batch, planned)
    chance = (angle * np.nan,) * 2
    if len(angle) > 1:  # each study is planned with the lines of the next one
        borrowed = np.where(np.roll(seen.visible, 1, axis=0), 1.0, 0.0)
        chance = deviations(batch, plan_planes(batch, np.roll(seen.true, 1, axis=0), borrowed))
    # Trivial: the mean lines, in every view that truly shows one.
    constant = deviations(batch, plan_planes(batch, seen.constant, seen.visible.astype(float)))
    solved = np.isfinite(angle).mean()
    return Section(
        title="Planes planned from lines in other views",
        explanation=(
            f"The lines of each plane in the study's other slices are put together to the plane "
            f"that fits them best ({seen.images.shape[1]} slices a study). "
            f"{100 * solved:.0f} % of the planes had enough confident lines; chance plans with "
            "another study's lines, the constant answer with mean lines."
        ),
        scores=(
            Score(
                "plan_angle",
                mean(angle),
                "°",
                "lower",
                chance=mean(chance[0]),
                constant=mean(constant[0]),
                label="angle of the planned plane to the true one",
                samples=each(angle),
            ),
            Score(
                "plan_distance",
                mean(distance),
                "mm",
                "lower",
                chance=mean(chance[1]),
                constant=mean(constant[1]),
                label="distance of the true plane's centre from the planned plane",
                samples=each(distance),
            ),
        ),
        panels=tuple(
            _panel(config, seen, batch, b, planned[b], scans[b], whole)
            for b in range(min(_SHOWN, len(planned)))
            if any(planned[b])
        ),
    )


def _panel(
    config: PlanesConfig,
    seen: Seen,
    batch: Batch,
    sample: int,
    planned: Sequence[PlannedPlane | None],
    scans: Sequence[Source],
    whole: WholeScans,
) -> LinesPanel:
    """The slice that most planned planes cut, with the lines they cut it in."""
    views, role_of = views_of(batch, sample), batch["role"][sample].tolist()
    roles = [r for r, plane in enumerate(planned) if plane is not None]
    true = _cuts(views, [acquired_plane(batch, sample, r) for r in roles])
    found = _cuts(views, [p.plane((1, 1), (1.0, 1.0)) for p in planned if p is not None])
    # A plane's own slices do not cut it: the slice shown must lie across it.
    shows = np.isfinite(true).all(-1) & (np.array(role_of)[:, None] != roles)
    image = int(shows.sum(1).argmax())
    shown = np.flatnonzero(shows[image])
    pixel = float(seen.pixel_mm[sample, image])
    names = tuple(config.roles[roles[i]] for i in shown)
    used = [len(plane.views) for plane in planned if plane is not None]
    parts = ", ".join(f"{n} from {used[i]} lines" for n, i in zip(names, shown, strict=True))
    return LinesPanel(
        title=f"Planned planes in a slice of {scans[image].key}",
        caption=(
            "Where the planned planes cut the slice, beside the true ones: "
            f"{parts or 'none of them does'}."
        ),
        image=seen.images[sample, image],
        spacing=(pixel, pixel),
        predicted=found[image, shown],
        true=true[image, shown],
        heatmaps=np.zeros((0, *seen.images.shape[-2:])),
        names=names,
        affine=seen.affine[sample, image],
        volume=whole.of(scans[image]).volume,
    )


def _cuts(views: Sequence[Plane], planes: Sequence[Plane]) -> Array:
    """``(views, planes, 3)`` lines, NaN where a plane misses the image."""
    lines, mask = intersect(views, planes)
    return np.where(mask[..., None], lines, np.nan)
