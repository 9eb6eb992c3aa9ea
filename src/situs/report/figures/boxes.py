"""Boxes inside a scan, seen along the three anatomical axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from situs import text
from situs.observation import BoxesPanel
from situs.observation.panels import Array
from situs.report import style
from situs.report.figures import anatomy
from situs.report.svg import Tile, tile


def tiles(panel: BoxesPanel) -> list[Tile]:
    """One slice a plane through the middle of the boxes, every box projected onto it."""
    volume = anatomy.of(panel.volume)
    low, high = canonical_boxes(volume, panel.start_vox, panel.size_vox)
    centre = 0.5 * (low + high).mean(axis=0) if len(low) else None
    roles = roles_of(panel)
    out = []
    for view in anatomy.views_at(volume, centre):
        with style.figure(*anatomy.figure_size(view)) as figure:
            axes = anatomy.image_axes(figure)
            anatomy.draw_slice(axes, view)
            for a, b, name, role in zip(low, high, panel.names, roles, strict=True):
                draw_box(axes, view, a, b, role, name if role in style.VIEWS else "")
            listed = ", ".join(dict.fromkeys(text.printable(n) for n in panel.names))
            alt = f"{panel.title}: {anatomy.describe(view)} with the boxes {listed}"
            out.append(tile(figure, alt, view.plane))
    named = dict(zip(roles, map(text.printable, panel.names), strict=True))
    return [legend(list(dict.fromkeys(roles)), named), *out]


def roles_of(panel: BoxesPanel) -> list[str]:
    """Role of each box; views, told apart by name, have one each (:data:`style.VIEWS`)."""
    pairs = list(zip(panel.names, panel.roles, strict=True))
    views = list(dict.fromkeys(name for name, role in pairs if role == "view"))
    return [
        style.VIEWS[views.index(name) % len(style.VIEWS)] if role == "view" else role
        for name, role in pairs
    ]


def canonical_boxes(
    volume: anatomy.Canonical, start_vox: Array, size_vox: Array
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper corners ``(N, 3)`` of boxes, at voxel edges of the reordered volume."""
    start = np.asarray(start_vox, dtype=float).reshape(-1, 3) - 0.5
    a, b = volume.points(start), volume.points(start + np.asarray(size_vox, float).reshape(-1, 3))
    return np.minimum(a, b), np.maximum(a, b)


def draw_box(
    axes: Axes, view: anatomy.SliceView, low: Array, high: Array, role: str, name: str = ""
) -> None:
    """A box's outline on a slice, in the line style of its role, with its name at a corner."""
    known = role if role in style.TONES else "view"
    left, bottom = view.plot(low)
    right, top = view.plot(high)
    axes.add_patch(
        Rectangle(
            (left, bottom),
            right - left,
            top - bottom,
            fill=False,
            edgecolor=style.on_scan(known),
            path_effects=anatomy.HALO,
            **style.LINES.get(known, style.LINES["view"]),
        )
    )
    if name:
        axes.annotate(
            text.printable(name),
            (right, top),
            xytext=(3, -3),
            textcoords="offset points",
            color=style.on_scan(known),
            fontsize=11,
            ha="left",
            va="top",
            path_effects=anatomy.HALO,
            annotation_clip=True,
        )


_MEANING = {
    "true": "true",
    "predicted": "predicted",
    "right": "found, right",
    "wrong": "found, wrong",
    "view": "view",
    "chunk": "chunk",
}


def legend(roles: list[str], views: Mapping[str, str] | None = None, markers: bool = False) -> Tile:
    """What the line styles of these roles mean, as a tile of its own above the slices.

    Args:
        roles: In order.
        views: Role → name, for views that are told apart.
        markers: Whether points carry the roles' markers.
    """
    views = {role: name for role, name in (views or {}).items() if role in style.VIEWS}
    known = [role for role in roles if role in _MEANING or role in views]
    names = [views.get(role) or _MEANING[role] for role in known]
    handles = [
        Line2D(
            [],
            [],
            color=style.chart(role),
            label=name,
            marker=style.MARKERS.get(role) if markers else None,
            markersize=5,
            **style.LINES[role],
        )
        for role, name in zip(known, names, strict=True)
    ]
    return legend_tile(handles, "Line styles: " + ", ".join(names))


def legend_tile(handles: Sequence[Artist], alt: str) -> Tile:
    """Handles in one row, as a tile that stands above the images."""
    width = sum(64 + 7.4 * len(str(h.get_label())) for h in handles)
    with style.figure(max(width, 64), 20) as figure:
        figure.legend(
            handles=handles,
            loc="center left",
            ncols=max(len(handles), 1),
            handlelength=2.6,
            columnspacing=1.6,
            borderaxespad=0,
            borderpad=0,
            bbox_to_anchor=(0, 0.5),
        )
        return replace(tile(figure, alt), wide=True)
