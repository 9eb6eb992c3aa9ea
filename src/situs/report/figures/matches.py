"""Positions matched between two volumes or slices: the best, the worst, how far all miss."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from situs import text
from situs.observation import MatchesPanel
from situs.observation.panels import Array
from situs.report import style
from situs.report.figures import anatomy, boxes
from situs.report.svg import Tile, tile

# Of the best and of the worst matches: more would hide the anatomy.
_EACH = 3
# Points of a slice that the map is drawn from; others lie in other slices.
_FEWEST_NEAR = 24


def tiles(panel: MatchesPanel) -> list[Tile]:
    """A few best and worst matches by number in both images, and the miss of all as a map."""
    left, right = anatomy.of(panel.left), anatomy.of(panel.right)
    points = left.points(np.asarray(panel.left_vox, float).reshape(-1, 3))
    found = right.points(np.asarray(panel.predicted_vox, float).reshape(-1, 3))
    true = right.points(np.asarray(panel.true_vox, float).reshape(-1, 3))
    good = np.asarray(panel.right_or_wrong, dtype=bool).ravel()
    miss = np.linalg.norm((found - true) * right.spacing, axis=1)
    planes = [
        p for p in anatomy.planes_of(left.array.shape) if p in anatomy.planes_of(right.array.shape)
    ]
    plane = _busiest_plane(planes or list(anatomy.planes_of(left.array.shape))[:1], points)
    axis = anatomy.slice_view(left, plane).axes[0]
    at = _fullest(points[:, axis], _in_tissue(left, points))
    near = _near(points[:, axis], at)
    few = near[_best_and_worst(miss[near])]
    view_l = anatomy.slice_view(left, plane, at)
    there = found[few][:, axis] if len(few) else np.asarray([np.nan])
    view_r = anatomy.slice_view(
        right, plane, float(np.nanmedian(there)) if np.isfinite(there).any() else None
    )
    share = text.quantity(100 * float(good.mean()) if good.size else None, "%")
    words = (
        f"{panel.title}: {len(good)} positions matched between two {plane} slices, {share} right"
    )
    out = [
        _numbered(view_l, points[few], good[few], None, f"{words}; {len(few)} are numbered",
                  f"{plane}: {int(good.sum())} of {len(good)} right"),
        _numbered(view_r, found[few], good[few], true[few], f"{words}; where the network puts them",
                  "where the network finds them"),
    ]  # fmt: skip
    if np.isfinite(miss[near]).any():
        out.append(_miss_map(view_l, points[near], miss[near], words))
    roles = ["right", "wrong", *(["true"] if len(few) and not good[few].all() else [])]
    return [boxes.legend(roles, markers=True), *out]


def _busiest_plane(planes: list[str], points: Array) -> str:
    """The plane whose slices hold most points: the one along which the points vary least."""
    if len(planes) == 1 or len(points) == 0:
        return planes[0]
    normal = {"axial": 2, "coronal": 1, "sagittal": 0}
    return min(planes, key=lambda p: len(np.unique(np.round(points[:, normal[p]], 1))))


def _in_tissue(volume: anatomy.Canonical, points: Array) -> np.ndarray:
    """Whether each point lies where the image is brighter than its mean, which air is not."""
    array = np.asarray(volume.array, float)
    if array.ndim != 3 or not np.isfinite(points).all():
        return np.ones(len(points), dtype=bool)
    edge = np.asarray(array.shape) - 1
    inside = np.clip(np.rint(points), 0, edge).astype(int)
    return array[tuple(inside.T)] > array.mean()


def _fullest(places: Array, wanted: np.ndarray) -> float | None:
    """The place along an axis with most of the wanted points, then with most points.

    The median where no two points share a place.
    """
    if not len(places):
        return None
    values, at, counts = np.unique(np.round(places, 1), return_inverse=True, return_counts=True)
    if counts.max() <= 1:
        return float(np.median(places))
    best = np.lexsort((counts, np.bincount(at.ravel(), wanted)))[-1]
    return float(values[best])


def _near(places: Array, at: float | None) -> np.ndarray:
    """Indices of the points in the slice, or of the nearest where it holds few."""
    if at is None:
        return np.zeros(0, dtype=int)
    distance = np.abs(places - at)
    inside = np.flatnonzero(distance < 1.0)
    if len(inside) >= min(2 * _EACH, len(places)):
        return inside
    return np.sort(np.argsort(distance, kind="stable")[:_FEWEST_NEAR])


def _best_and_worst(miss: Array) -> np.ndarray:
    """Indices of the matches that miss least, then of those that miss most; ties by place."""
    order = np.argsort(miss, kind="stable")
    known = order[np.isfinite(miss[order])]
    if len(known) <= 2 * _EACH:
        return known if len(known) else order[: 2 * _EACH]
    return np.concatenate([known[:_EACH], known[-_EACH:]])


def _numbered(
    view: anatomy.SliceView, points: Array, good: Array, true: Array | None, alt: str, heading: str
) -> Tile:
    """Markers with numbers on a slice; with the truth, tied to where each point truly is."""
    with style.figure(*anatomy.figure_size(view)) as figure:
        axes = anatomy.image_axes(figure)
        anatomy.draw_slice(axes, view, bar=False)
        if true is not None:
            _truth(axes, view.plot(true[~good]), view.plot(points[~good]))
        for n, (point, ok) in enumerate(zip(view.plot(points), good, strict=True), start=1):
            if np.isfinite(point).all():
                _marker(axes, point, str(n), "right" if ok else "wrong")
        anatomy.scale_bar(axes, view, [*axes.texts, *axes.lines])
        return tile(figure, alt, heading)


def _marker(axes: Axes, point: Array, name: str, role: str) -> None:
    axes.plot(
        *point,
        style.MARKERS[role],
        color=style.on_scan(role),
        markersize=5.5,
        markeredgecolor="#000000",
        markeredgewidth=0.6,
        zorder=5,
    )
    axes.annotate(
        name,
        (float(point[0]), float(point[1])),
        xytext=(5, 3),
        textcoords="offset points",
        color=style.on_scan(role),
        fontsize=11,
        fontweight="bold",
        path_effects=anatomy.HALO,
        zorder=6,
    )


def _miss_map(view: anatomy.SliceView, points: Array, miss: Array, words: str) -> Tile:
    """The distance from the true place, as a colour at each matched position."""
    bar = 44.0
    wide, high = anatomy.figure_size(view, width=258 - bar)
    known = np.isfinite(miss)
    most = float(miss[known].max()) or 1.0
    with style.figure(wide + bar, high) as figure:
        axes = anatomy.image_axes(figure, right=2.0 + bar)
        anatomy.draw_slice(axes, view)
        scale = ScalarMappable(Normalize(0.0, most), style.HEAT)
        x, y = view.plot(points[known]).T
        axes.scatter(
            x,
            y,
            c=scale.to_rgba(miss[known]),
            s=34 if known.sum() < 100 else 16,
            marker="s",
            edgecolors="#ffffff",
            linewidths=0.5,
            zorder=5,
        )
        style.colour_bar(figure, axes, scale)
        mean = text.quantity(float(miss[known].mean()), "mm")
        alt = f"{words}; distance from the true place at each position, {mean} on average"
        return tile(figure, alt, f"how far off, in mm ({mean} on average)")


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
