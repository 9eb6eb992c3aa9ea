"""Positions matched between two volumes or two slices, right and wrong told apart by shape."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import ConnectionPatch

from situs import text
from situs.observation import MatchesPanel
from situs.observation.panels import Array
from situs.report import style
from situs.report.figures import anatomy, boxes
from situs.report.svg import Tile, tile

# More lines than this would hide the anatomy.
_MOST_LINES = 24
_BETWEEN = 20.0


def tiles(panel: MatchesPanel) -> list[Tile]:
    """The two images side by side with a line from each point to where the network puts it."""
    left, right = anatomy.of(panel.left), anatomy.of(panel.right)
    points = left.points(np.asarray(panel.left_vox, float).reshape(-1, 3))
    found = right.points(np.asarray(panel.predicted_vox, float).reshape(-1, 3))
    true = right.points(np.asarray(panel.true_vox, float).reshape(-1, 3))
    good = np.asarray(panel.right_or_wrong, dtype=bool).ravel()
    planes = [
        p for p in anatomy.planes_of(left.array.shape) if p in anatomy.planes_of(right.array.shape)
    ]
    plane = _busiest_plane(planes or list(anatomy.planes_of(left.array.shape))[:1], points)
    axis = anatomy.slice_view(left, plane).axes[0]
    at = float(np.median(points[:, axis])) if len(points) else None
    chosen = _spread(points, axis, at, good)
    view_l = anatomy.slice_view(left, plane, at)
    there = found[chosen][:, axis] if len(chosen) else np.asarray([np.nan])
    view_r = anatomy.slice_view(
        right, plane, float(np.nanmedian(there)) if np.isfinite(there).any() else None
    )
    wide, high = anatomy.figure_size(view_l, width=290, tallest=330)
    wide_r, high_r = anatomy.figure_size(view_r, width=290, tallest=330)
    with style.figure(wide + wide_r + _BETWEEN, max(high, high_r)) as figure:
        one = anatomy.image_axes(figure, right=wide_r + _BETWEEN)
        # Its numbers stand on the right, where no line crosses them.
        two = style.axes(figure, wide + _BETWEEN, 27, 32, 2)
        anatomy.draw_slice(one, view_l)
        anatomy.draw_slice(two, view_r)
        two.yaxis.tick_right()
        _lines(one, two, view_l.plot(points[chosen]), view_r.plot(found[chosen]), good[chosen])
        wrong = chosen[~good[chosen]]
        _truth(two, view_r.plot(true[wrong]), view_r.plot(found[wrong]))
        share = text.quantity(100 * float(good.mean()) if good.size else None, "%")
        alt = (
            f"{panel.title}: {len(good)} positions matched between two {plane} slices, "
            f"{share} of them right; {len(chosen)} are drawn"
        )
        heading = f"{plane}: {int(good.sum())} of {len(good)} right, {len(chosen)} drawn"
        picture = tile(figure, alt, heading)
    roles = ["right", "wrong", *(["true"] if len(wrong) else [])]
    return [boxes.legend(roles, markers=True), picture]


def _busiest_plane(planes: list[str], points: Array) -> str:
    """The plane whose slices hold most points: the one along which the points vary least."""
    if len(planes) == 1 or len(points) == 0:
        return planes[0]
    normal = {"axial": 2, "coronal": 1, "sagittal": 0}
    return min(planes, key=lambda p: len(np.unique(np.round(points[:, normal[p]], 1))))


def _spread(points: Array, axis: int, at: float | None, good: Array) -> np.ndarray:
    """Up to :data:`_MOST_LINES` points near the slice, right and wrong in their true proportion."""
    if at is None:
        return np.zeros(0, dtype=int)
    order = np.argsort(np.abs(points[:, axis] - at), kind="stable")
    near = order[: max(_MOST_LINES, np.count_nonzero(np.abs(points[:, axis] - at) < 1.0))]
    near = np.sort(near)
    if len(near) <= _MOST_LINES:
        return near
    picked: list[int] = []
    for kind in (True, False):
        of_kind = near[good[near] == kind]
        count = round(_MOST_LINES * len(of_kind) / len(near))
        if count:
            picked += of_kind[np.linspace(0, len(of_kind) - 1, count).astype(int)].tolist()
    return np.asarray(picked, dtype=int)


def _lines(one: Axes, two: Axes, start: Array, end: Array, good: Array) -> None:
    for a, b, ok in zip(start, end, good, strict=True):
        role = "right" if ok else "wrong"
        colour = style.on_scan(role)
        for axes, point in ((one, a), (two, b)):
            axes.plot(
                *point,
                style.MARKERS[role],
                color=colour,
                markersize=4.5,
                markeredgecolor="#000000",
                markeredgewidth=0.6,
                zorder=5,
            )
        if np.isfinite([*a, *b]).all():
            line = ConnectionPatch(
                xyA=tuple(a),
                xyB=tuple(b),
                coordsA="data",
                coordsB="data",
                axesA=one,
                axesB=two,
                color=colour,
                alpha=0.85,
                zorder=4,
                linestyle=style.LINES[role]["linestyle"],
                linewidth=1.1,
            )
            two.add_artist(line)


def _truth(axes: Axes, true: Array, found: Array) -> None:
    """For wrong matches, where the point truly is, tied to where the network put it."""
    for t, f in zip(true, found, strict=True):
        if not np.isfinite([*t, *f]).all():
            continue
        axes.plot([f[0], t[0]], [f[1], t[1]], color=style.on_scan("true"), linewidth=0.8, alpha=0.7)
        axes.plot(
            *t,
            "o",
            markerfacecolor="none",
            markeredgecolor=style.on_scan("true"),
            markersize=5.5,
            markeredgewidth=1.3,
            zorder=5,
        )
