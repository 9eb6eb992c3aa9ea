"""Fine-tuning from pretrained weights beside training from scratch, case by case."""

from __future__ import annotations

import numpy as np

from situs import text
from situs.report import style
from situs.report.svg import Tile, tile
from situs.report.transfers import Comparison, name_of


def pair_tile(comparison: Comparison) -> Tile | None:
    """Each test case as a line from scratch to pretrained; None without case-wise scores."""
    one = comparison.pretrained.by_case(comparison.score)
    two = comparison.scratch.by_case(comparison.score)
    shared = sorted(one.keys() & two.keys())
    if not shared:
        return None
    scratch = np.asarray([two[case] for case in shared])
    pretrained = np.asarray([one[case] for case in shared])
    with style.figure(300, 300) as figure:
        axes = style.axes(figure)
        axes.grid(axis="y", alpha=0.7)
        for a, b in zip(scratch, pretrained, strict=True):
            role = "right" if b >= a else "wrong"
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
        axes.set_ylabel(name_of(comparison.score))
        better = int((pretrained > scratch).sum())
        alt = (
            f"{name_of(comparison.score)} of {len(shared)} test cases, from scratch and from "
            f"these weights; better in {better} of them. {comparison.sentence}"
        )
        heading = (
            f"{comparison.pretrained.labelled} labelled cases: better in {better} of {len(shared)}"
        )
        return tile(figure, alt, heading)
