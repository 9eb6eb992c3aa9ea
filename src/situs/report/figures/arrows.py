"""Vectors between points of a scan: where the network points, and where it should."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from situs import text
from situs.observation import ArrowsPanel
from situs.observation.panels import Array
from situs.report import style
from situs.report.figures import anatomy, boxes
from situs.report.svg import Tile, tile


def tiles(panel: ArrowsPanel) -> list[Tile]:
    """One slice a plane through the middle of the points, every arrow projected onto it."""
    volume = anatomy.of(panel.volume)
    start, predicted, true = (
        volume.points(np.asarray(p, float).reshape(-1, 3))
        for p in (panel.start_vox, panel.predicted_vox, panel.true_vox)
    )
    low, high = boxes.canonical_boxes(volume, panel.boxes_vox[:, 0], panel.boxes_vox[:, 1])
    miss = np.linalg.norm((predicted - true) * volume.spacing, axis=1)
    mean = text.quantity(float(np.nanmean(miss)) if miss.size else None, "mm")
    out = []
    for view in anatomy.views_at(volume, start.mean(axis=0) if len(start) else None):
        with style.figure(*anatomy.figure_size(view)) as figure:
            axes = anatomy.image_axes(figure)
            anatomy.draw_slice(axes, view)
            for n, (a, b) in enumerate(zip(low, high, strict=True)):
                boxes.draw_box(axes, view, a, b, style.VIEWS[n % len(style.VIEWS)])
            for role, ends in (("true", true), ("predicted", predicted)):
                _arrows(axes, view, start, ends, role)
            for n, point in enumerate(view.plot(start)):
                axes.annotate(
                    str(n + 1),
                    point,
                    color="#ffffff",
                    fontsize=11,
                    fontweight="bold",
                    ha="center",
                    va="center",
                    path_effects=anatomy.HALO,
                )
            alt = (
                f"{panel.title}: {anatomy.describe(view)} with {len(start)} predicted and true "
                f"arrows; their heads are {mean} apart on average"
            )
            out.append(tile(figure, alt, view.plane))
    return [boxes.legend(["true", "predicted", *(["view"] if len(low) else [])]), *out]


def _arrows(axes: Axes, view: anatomy.SliceView, start: Array, end: Array, role: str) -> None:
    look = style.LINES[role]
    for a, b in zip(view.plot(start), view.plot(end), strict=True):
        if not np.isfinite([*a, *b]).all():
            continue
        axes.annotate(
            "",
            xy=b,
            xytext=a,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-|>" if role == "true" else "->",
                "color": style.on_scan(role),
                "shrinkA": 5,
                "shrinkB": 0,
                "mutation_scale": 11,
                "path_effects": anatomy.HALO,
                **look,
            },
        )
