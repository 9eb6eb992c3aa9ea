"""What a run was trained on: spacings, sizes, intensities and a look at some scans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from situs import text
from situs.observation import Volume
from situs.observation.panels import Array
from situs.report import style
from situs.report.figures import anatomy
from situs.report.svg import Tile, tile

_WIDTH, _HEIGHT = 290.0, 180.0
_AXES = ("left–right", "back–front", "bottom–top")


def axis_histogram(values: Array, quantity: str, unit: str) -> Tile:
    """Histogram of something that a scan has along each of its axes, ``(N, 3)``."""
    values = np.asarray(values, dtype=float).reshape(-1, 3)
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(finite.max())
    if high - low < 1e-6:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    bins = np.linspace(low, high, min(24, max(6, len(values) // 3)) + 1)
    with style.figure(_WIDTH, _HEIGHT) as figure:
        axes = style.axes(figure)
        axes.grid(axis="y", alpha=0.7)
        for n, name in enumerate(_AXES):
            axes.stairs(
                np.histogram(values[:, n], bins)[0],
                bins,
                label=name,
                color=style.SERIES[n],
                linewidth=1.6,
                linestyle=style.SERIES_LINES[n],
                fill=False,
            )
        _finish(axes, f"{quantity} ({unit})", "scans")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_ylim(0, 1.42 * axes.get_ylim()[1])
        axes.legend(loc="upper center", handlelength=1.8, ncols=3, columnspacing=0.9, fontsize=10.5)
        median = " × ".join(text.number(float(m)) for m in np.nanmedian(values, axis=0))
        alt = f"Histogram of {quantity} along each axis of {len(values)} scans; median {median}"
        return tile(figure, f"{alt} {unit}", quantity)


def intensity_histogram(volumes: Sequence[Volume]) -> Tile:
    """Distribution of the prepared voxel values, one line a scan."""
    with style.figure(_WIDTH, _HEIGHT) as figure:
        axes = style.axes(figure)
        axes.grid(axis="y", alpha=0.7)
        contents = [np.asarray(v.array, dtype=float).ravel() for v in volumes]
        contents = [c[np.isfinite(c)][:: max(1, c.size // 200_000)] for c in contents]
        low = min((float(np.percentile(c, 0.2)) for c in contents if c.size), default=0.0)
        high = max((float(np.percentile(c, 99.8)) for c in contents if c.size), default=1.0)
        bins = np.linspace(low, high if high > low else low + 1, 49)
        shares = np.zeros((max(1, len(contents)), len(bins) - 1))
        for n, content in enumerate(contents):
            counts, _ = np.histogram(content, bins)
            shares[n] = share = 100 * counts / max(1, counts.sum())
            axes.plot(
                0.5 * (bins[1:] + bins[:-1]),
                share,
                linewidth=1.2,
                color=style.SERIES[n % 8],
                linestyle=style.SERIES_LINES[n % 4],
            )
        _finish(axes, "prepared intensity", "% of voxels")
        _look_beyond_the_background(axes, bins, shares)
        alt = f"Distribution of the prepared intensities of {len(volumes)} scans"
        return tile(figure, alt, f"intensities, one line for each of {len(volumes)} scans")


def _look_beyond_the_background(axes: Axes, bins: Array, shares: Array) -> None:
    """Where most voxels are of one value, show the others, and say how many those are."""
    peak = int(shares.max(0).argmax())
    others = np.delete(shares, peak, 1).max()
    if shares[:, peak].max() <= 4 * others or others == 0:
        return
    axes.set_ylim(0, 1.3 * others)
    told = (
        f"{shares[:, peak].mean():.0f} % lie at {text.number(float(bins[peak : peak + 2].mean()))}"
    )
    left = peak < len(bins) / 2
    axes.annotate(
        told,
        (bins[peak + left], 1.22 * others),
        xytext=(8 if left else -8, 0),
        textcoords="offset points",
        ha="left" if left else "right",
        va="center",
        fontsize=10.5,
        color=style.chart("guess"),
    )


def thumbnail_tiles(volume: Volume) -> list[Tile]:
    """The middle of a scan in three orientations, small."""
    reordered = anatomy.of(volume)
    out = []
    for view in anatomy.views_at(reordered):
        with style.figure(
            *anatomy.figure_size(view, width=150, tallest=170, ticks=False)
        ) as figure:
            anatomy.draw_slice(anatomy.image_axes(figure, ticks=False), view, ticks=False)
            name = text.printable(volume.name) or "scan"
            out.append(tile(figure, f"{name}: {anatomy.describe(view)}", view.plane))
    return out


def _finish(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
