"""Predicted against true values, with the line on which a perfect network would lie."""

from __future__ import annotations

import numpy as np

from situs import text
from situs.observation import ScatterPanel
from situs.report import style
from situs.report.svg import Tile, tile

_MOST_POINTS = 900


def tiles(panel: ScatterPanel) -> list[Tile]:
    """One scatter plot; groups differ in colour and marker."""
    predicted = np.asarray(panel.predicted, dtype=float).ravel()
    true = np.asarray(panel.true, dtype=float).ravel()
    groups = np.asarray(panel.groups if len(panel.groups) == len(true) else [""] * len(true))
    kept = np.isfinite(predicted) & np.isfinite(true)
    predicted, true, groups = predicted[kept], true[kept], groups[kept]
    both = np.concatenate([predicted, true, [0.0, 1.0] if not true.size else []])
    low, high = float(both.min()), float(both.max())
    pad = 0.05 * ((high - low) or 1.0)
    step = max(1, len(true) // _MOST_POINTS)
    with style.figure(320, 310) as figure:
        axes = style.axes(figure)
        axes.grid(alpha=0.6)
        axes.plot(
            [low - pad, high + pad],
            [low - pad, high + pad],
            color=style.chart("true"),
            label="exact",
            **style.LINES["true"],
        )
        for n, group in enumerate(dict.fromkeys(groups.tolist())):
            chosen = np.flatnonzero(groups == group)[::step]
            axes.plot(
                true[chosen],
                predicted[chosen],
                style.SERIES_MARKERS[n % len(style.SERIES_MARKERS)],
                color=style.chart("predicted") if not group else style.SERIES[(n + 1) % 8],
                markersize=3.6,
                alpha=0.75,
                markeredgewidth=0,
                label=text.printable(group) or "predicted",
            )
        axes.set_xlim(low - pad, high + pad)
        axes.set_ylim(low - pad, high + pad)
        axes.set_aspect("equal")
        what = text.printable(panel.quantity)
        unit = f" ({panel.unit})" if panel.unit else ""
        axes.set_xlabel(f"true {what}{unit}".replace("  ", " "))
        axes.set_ylabel(f"predicted {what}{unit}".replace("  ", " "))
        axes.legend(loc="upper left", handlelength=1.4, borderaxespad=0.2)
        correlation = _correlation(predicted, true)
        alt = (
            f"{panel.title}: {len(true)} predicted values against true ones, "
            f"correlation {text.number(correlation)}"
        )
        return [tile(figure, alt)]


def _correlation(predicted: np.ndarray, true: np.ndarray) -> float:
    if len(true) < 2 or predicted.std() == 0 or true.std() == 0:
        return float("nan")
    return float(np.corrcoef(predicted, true)[0, 1])
