"""Fine-tuning from pretrained weights beside training from scratch, case by case."""

from __future__ import annotations

import numpy as np

from situs import text
from situs.evaluation.gains import Gain, paired_scores
from situs.report import style
from situs.report.svg import Tile, tile
from situs.report.transfers import Comparison


def pair_tiles(comparison: Comparison) -> list[Tile]:
    """A chart a metric: each test case as a line from scratch to pretrained."""
    return [_pair_tile(comparison, gain) for gain in comparison.account.gains]


def _pair_tile(comparison: Comparison, gain: Gain) -> Tile:
    pairs = paired_scores(comparison.pretrained.cases, comparison.scratch.cases, gain.metric)
    pretrained, scratch = np.asarray(list(pairs.values())).T
    sign = gain.metric.sign
    better = int((sign * pretrained > sign * scratch).sum())
    with style.figure(300, 300) as figure:
        axes = style.axes(figure)
        axes.grid(axis="y", alpha=0.7)
        for a, b in zip(scratch, pretrained, strict=True):
            role = "right" if sign * b >= sign * a else "wrong"
            axes.plot([0, 1], [a, b], color=style.chart(role), alpha=0.55, **style.LINES[role])
        for x, values, role in ((0, scratch, "guess"), (1, pretrained, "predicted")):
            axes.plot(
                np.full(len(values), x),
                values,
                style.MARKERS.get(role, "o"),
                color=style.chart(role),
                markersize=3.5,
                alpha=0.8,
                markeredgewidth=0,
            )
            axes.plot(
                [x - 0.16, x + 0.16],
                [values.mean()] * 2,
                color=style.chart("ink"),
                linewidth=2.4,
                solid_capstyle="butt",
            )
            axes.annotate(
                text.number(float(values.mean())),
                (x, values.mean()),
                xytext=(-20 if x == 0 else 20, 0),
                textcoords="offset points",
                ha="right" if x == 0 else "left",
                va="center",
                fontweight="bold",
            )
        axes.set_xlim(-0.55, 1.55)
        axes.set_xticks([0, 1], ["from scratch", "from these weights"])
        axes.set_ylabel(gain.metric.name)
        arrow = "↑" if gain.metric.higher else "↓"
        heading = f"{gain.metric.title} {arrow}: better in {better} of {len(pairs)} test cases"
        return tile(
            figure, f"{heading}, from scratch and from these weights. {gain.words}", heading
        )
