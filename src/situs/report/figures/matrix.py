"""Predicted and true matrices beside each other, on one colour scale."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from situs import text
from situs.observation import MatrixPanel
from situs.observation.panels import Array
from situs.report import style
from situs.report.svg import Tile, tile

# Up to this many rows a cell is large enough for its number.
_NUMBERS = 7
_CELL, _BOTTOM = 46.0, 36.0
_LETTER = 6.6


def tiles(panel: MatrixPanel) -> list[Tile]:
    """Prediction, truth, and their difference."""
    predicted = np.asarray(panel.predicted, dtype=float)
    true = np.asarray(panel.true, dtype=float)
    both = np.concatenate([predicted.ravel(), true.ravel()])
    both = both[np.isfinite(both)]
    low, high = (float(both.min()), float(both.max())) if both.size else (0.0, 1.0)
    miss = predicted - true
    finite = np.abs(miss[np.isfinite(miss)])
    most = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    mean = text.quantity(float(finite.mean()) if finite.size else None, panel.unit)
    unit = f" ({panel.unit})" if panel.unit else ""
    shown = (
        (predicted, "predicted", style.MATRIX, (low, high)),
        (true, "true", style.MATRIX, (low, high)),
        (miss, "predicted − true", style.DIFFERENCE, (-most, most)),
    )
    return [
        _tile(
            values,
            f"{name}{unit}",
            colours,
            limits,
            panel.labels,
            f"{panel.title}: {name} matrix; mean absolute difference {mean}",
        )
        for values, name, colours, limits in shown
    ]


def _tile(
    values: Array,
    heading: str,
    colours: str,
    limits: tuple[float, float],
    labels: tuple[str, ...],
    alt: str,
) -> Tile:
    rows, columns = values.shape
    small = max(rows, columns) <= _NUMBERS
    right = 4.0 if small else 46.0
    shown = _short(labels) if len(labels) == rows == columns and small else ["1"]
    left = 12 + _LETTER * max(map(len, shown)) if small else 34.0
    inner = max(_CELL * columns, 120.0) if small else 190.0
    width = left + inner + right
    height = float(np.clip(inner * rows / columns, 60, 260)) + _BOTTOM + 4
    with style.figure(width, height) as figure:
        axes = style.axes(figure, left, _BOTTOM, right, 4)
        if small:
            axes.pcolormesh(
                values,
                cmap=colours,
                vmin=limits[0],
                vmax=limits[1],
                edgecolors=style.chart("panel"),
                linewidth=2,
            )
            axes.set_ylim(rows, 0)
            _numbers(axes, values, colours, limits)
        else:
            image = axes.imshow(
                values,
                cmap=colours,
                vmin=limits[0],
                vmax=limits[1],
                extent=(0, columns, rows, 0),
                aspect="auto",
            )
            style.colour_bar(figure, axes, image)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        _labels(axes, labels, rows, columns)
        return tile(figure, alt, heading)


def _short(labels: tuple[str, ...]) -> list[str]:
    return [text.printable(label)[:14] for label in labels]


def _labels(axes: Axes, labels: tuple[str, ...], rows: int, columns: int) -> None:
    if len(labels) == rows == columns and rows <= _NUMBERS:
        at = np.arange(rows) + 0.5
        short = _short(labels)
        axes.set_yticks(at, short)
        if max(map(len, short)) * _LETTER < _CELL:
            axes.set_xticks(at, short)
        else:
            axes.set_xticks(at, short, rotation=30, ha="right", rotation_mode="anchor")
    elif rows <= _NUMBERS:
        axes.set_yticks(np.arange(rows) + 0.5, [str(n + 1) for n in range(rows)])
        axes.set_xticks(np.arange(columns) + 0.5, [str(n + 1) for n in range(columns)])


def _numbers(axes: Axes, values: Array, colours: str, limits: tuple[float, float]) -> None:
    """The number in each cell, black or white, whichever its colour allows to be read."""
    scale = mpl.colormaps[colours]
    span = (limits[1] - limits[0]) or 1.0
    for (row, column), value in np.ndenumerate(values):
        if not np.isfinite(value):
            continue
        red, green, blue, _ = scale((value - limits[0]) / span)
        bright = 0.299 * red + 0.587 * green + 0.114 * blue
        axes.text(
            column + 0.5,
            row + 0.5,
            text.number(float(value)),
            ha="center",
            va="center",
            fontsize=10.5,
            color="#101418" if bright > 0.5 else "#ffffff",
        )
