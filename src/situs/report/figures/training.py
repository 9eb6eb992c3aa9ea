"""Curves of a run: one small chart a loss term and a score, each on its own scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from situs import text
from situs.observation import Score, verdicts
from situs.report import style
from situs.report.svg import Tile, tile

Columns = Mapping[str, npt.NDArray[np.float64]]
_WIDTH, _HEIGHT = 250.0, 172.0
# The smoothed line averages over about this share of the run.
_SMOOTHING = 0.04
_MOST_POINTS = 400
# Of a chart; levels closer than this share one label.
_LABEL_HEIGHT = 0.1


def loss_tiles(runs: Mapping[str, Columns]) -> list[Tile]:
    """One chart a loss term, ``total`` first; several runs share a chart.

    Args:
        runs: Name → columns of its metrics file.
    """
    terms = list(
        dict.fromkeys(n for columns in runs.values() for n in columns if n.startswith("loss/"))
    )
    terms.sort(key=lambda name: not name.endswith("total"))
    return [_loss_tile(term, runs) for term in terms]


def loss_caption(columns: Columns) -> str:
    """What the lines in the loss charts of a run are."""
    logged = int(np.isfinite(columns.get("loss/total", np.array([]))).sum())
    if not _reach(logged):
        return "Over optimiser steps, as logged."
    return (
        "Over optimiser steps; faint: as logged, strong: averaged over "
        f"{100 * _SMOOTHING:g} % of the run."
    )


def score_tiles(runs: Mapping[str, Columns], scores: Mapping[str, Score]) -> list[Tile]:
    """One chart a score, in its unit, with the levels of guessing and of a constant answer.

    A score that was observed only once has no curve.

    Args:
        runs: Name → columns of its metrics file.
        scores: ``score/…`` column → the last observation's score.
    """
    return [
        _score_tile(name, score, runs)
        for name, score in scores.items()
        if any(np.isfinite(columns.get(name, np.nan)).sum() > 1 for columns in runs.values())
    ]


def _loss_tile(term: str, runs: Mapping[str, Columns]) -> Tile:
    label = text.printable(term.removeprefix("loss/"))
    with style.figure(_WIDTH, _HEIGHT) as figure:
        axes = _axes(figure, "loss")
        ends = []
        for n, (name, columns) in enumerate(runs.items()):
            if term not in columns:
                continue
            x, y = _finite(columns["step"], columns[term])
            if not len(x):
                continue
            colour, line = style.SERIES[n % 8], style.SERIES_LINES[n % 4]
            axes.plot(*_thinned(x, y), color=colour, linewidth=0.8, alpha=0.3)
            axes.plot(*_thinned(x, _smooth(y)), linewidth=1.6, color=colour, linestyle=line)
            ends.append((f"{name}: " if len(runs) > 1 else "") + text.number(float(y[-1])))
        alt = f"Loss term {label} over the steps; last value {', '.join(ends) or 'none'}"
        return tile(figure, alt, label)


def _score_tile(column: str, score: Score, runs: Mapping[str, Columns]) -> Tile:
    with style.figure(_WIDTH, _HEIGHT) as figure:
        axes = _axes(figure, score.unit)
        ends = []
        for n, (name, columns) in enumerate(runs.items()):
            if column not in columns:
                continue
            x, y = _finite(columns["step"], columns[column])
            if not len(x):
                continue
            colour = style.chart("predicted") if len(runs) == 1 else style.SERIES[n % 8]
            axes.plot(
                x,
                y,
                color=colour,
                linewidth=1.6,
                markersize=3.6,
                marker=style.SERIES_MARKERS[n % 8],
                linestyle=style.SERIES_LINES[n % 4],
            )
            ends.append((f"{name}: " if len(runs) > 1 else "") + text.number(float(y[-1])))
        _levels(axes, score)
        label = verdicts.label(score)
        unit = f" ({score.unit})" if score.unit else ""
        alt = (
            f"{label} over the steps, {verdicts.direction(score)}; last value {', '.join(ends)}"
            f"{unit}, {verdicts.sentence(score)}"
        )
        arrow = "↓" if score.better == "lower" else "↑"
        return tile(figure, alt, f"{label}{unit} {arrow}")


def _levels(axes: Axes, score: Score) -> None:
    """Lines at what guessing and a constant answer give; one where they nearly coincide."""
    levels = [
        (level, name, line)
        for level, name, line in (
            (score.chance, "guessing", style.LINES["guess"]["linestyle"]),
            (score.constant, "constant", (0, (5, 2))),
        )
        if level is not None and np.isfinite(level)
    ]
    for level, _, line in levels:
        axes.axhline(level, color=style.chart("guess"), linestyle=line, linewidth=1)
    low, high = axes.get_ylim()
    if len(levels) == 2 and abs(levels[0][0] - levels[1][0]) < _LABEL_HEIGHT * (high - low):
        levels = [(max(levels[0][0], levels[1][0]), "guessing, constant", "-")]
    for level, name, _ in levels:
        axes.annotate(
            name,
            (1, level),
            xycoords=("axes fraction", "data"),
            xytext=(0, 1.5),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=10.5,
            color=style.chart("muted"),
        )


def _axes(figure: Figure, y_label: str) -> Axes:
    axes = style.axes(figure, 56, 40)
    axes.set_xlabel("step")
    axes.set_ylabel(y_label)
    axes.grid(axis="y", alpha=0.7)
    axes.margins(x=0.02, y=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return axes


def _finite(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    kept = np.isfinite(x) & np.isfinite(y)
    return x[kept], y[kept]


def _reach(points: int) -> int:
    """How many points to each side the average takes; 0 where the run is too short for one."""
    return int(_SMOOTHING * points / 2)


def _smooth(y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A centred moving average whose window shrinks at both ends, so that it starts true."""
    half = _reach(len(y))
    if not half:
        return y
    total = np.concatenate([[0.0], np.cumsum(y)])
    at = np.arange(len(y))
    reach = np.minimum(half, np.minimum(at, len(y) - 1 - at))
    mean: npt.NDArray[np.float64] = (total[at + reach + 1] - total[at - reach]) / (2 * reach + 1)
    return mean


def _thinned(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> Sequence[npt.NDArray[np.float64]]:
    step = max(1, len(x) // _MOST_POINTS)
    return x[::step], y[::step]
