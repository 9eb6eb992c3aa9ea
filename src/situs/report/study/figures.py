"""Figures of a study, in the house style."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from situs.evaluation.measures import Metric
from situs.report import style
from situs.report.svg import Tile, tile
from situs.studies.arms import SCRATCH
from situs.studies.summary import best_of


def looks(arms: list[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Line style of each arm, ``(name, method)``; scratch is grey, dotted and behind the rest."""
    chosen: dict[str, dict[str, Any]] = {}
    peers = scratches = 0
    for name, method in arms:
        if method == SCRATCH:
            chosen[name] = {"color": style.chart("guess"), "zorder": 1, **style.LINES["guess"]}
            marker = ("s", *style.SERIES_MARKERS)[scratches % (len(style.SERIES_MARKERS) + 1)]
            chosen[name] |= {"marker": marker, "linewidth": 2.2}
            scratches += 1
            continue
        # Colours that come again come with another marker and line.
        turn = peers + peers // len(style.SERIES)
        chosen[name] = {
            "color": style.SERIES[peers % len(style.SERIES)],
            "linestyle": style.SERIES_LINES[turn % len(style.SERIES_LINES)],
            "marker": style.SERIES_MARKERS[turn % len(style.SERIES_MARKERS)],
            "zorder": 2,
        }
        peers += 1
    return chosen


def efficiency(
    summary: pd.DataFrame, metric: Metric, arms: list[tuple[str, str]], counted: str = "cases"
) -> Tile:
    """Mean score against the number of labels, with 95 % intervals.

    Args:
        summary: The study's.
        metric: What is compared.
        arms: Name and style group of each.
        counted: What labels are counted in, cases or patients.
    """
    style_of = looks(arms)
    with style.figure(640, 430) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        counts = sorted(summary["labels"].unique())
        for i, (name, _) in enumerate(arms):
            rows = summary[summary["arm"] == name].sort_values("labels")
            if rows.empty:
                continue
            # A few percent apart, so that intervals at one label count can be told apart.
            x = rows["labels"].to_numpy() * 1.022 ** (i - (len(arms) - 1) / 2)
            y = rows["mean"].to_numpy()
            spread = np.stack([y - rows["low"], rows["high"] - y]).clip(min=0)
            axes.errorbar(x, y, spread, label=name, markersize=5, capsize=2, **style_of[name])
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(c) for c in counts])
        axes.minorticks_off()
        axes.set_xlabel(f"labelled {counted}")
        axes.set_ylabel(f"{metric.name} (mean, 95 % interval)")
        axes.grid(axis="y")
        figure.legend(loc="outside lower center", ncols=3)  # inside it would cover some arm
        return tile(figure, _said(summary, metric, counted), "Label efficiency")


def gains(
    summary: pd.DataFrame, metric: Metric, arms: list[tuple[str, str]], counted: str = "cases"
) -> Tile | None:
    """Gain over scratch of each arm and label count, with 95 % intervals; see ``efficiency``."""
    rows = summary[summary["gain"].notna()] if "gain" in summary else summary.iloc[:0]
    if rows.empty:
        return None
    style_of = looks(arms)
    names = [name for name, _ in arms if name in set(rows["arm"])]
    counts = sorted(rows["labels"].unique())
    with style.figure(640, 70 + 24 * len(names)) as figure:
        # The page's font is wider than the one that the layout is computed with.
        figure.set_layout_engine("constrained", w_pad=16 / 72)
        axes = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
        for count, here in zip(counts, axes, strict=True):
            for place, name in enumerate(names):
                row = rows[(rows["arm"] == name) & (rows["labels"] == count)]
                for gain, low, high in (
                    metric.factor * row[["gain", "gain_low", "gain_high"]].to_numpy()
                ):
                    spread = np.clip([[gain - low], [high - gain]], 0, None)
                    marker = {k: style_of[name][k] for k in ("color", "marker")}
                    here.errorbar([gain], [place], xerr=spread, capsize=2, ls="", **marker)
            here.axvline(0, color=style.chart("guess"), linewidth=1)
            here.set_title(f"{count} {counted.removesuffix('s' if count == 1 else '')}")
            here.grid(axis="x")
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set_ylim(len(names) - 0.5, -0.5)
        figure.supxlabel(f"{metric.name}: {metric.unit} better than the reference", fontsize=10.5)
        best = best_of(rows.to_dict("records"))
        alt = (
            f"Gain over scratch for {len(names)} methods; the largest is "
            f"{metric.factor * best['gain']:.1f} {metric.unit}, {best['arm']} with "
            f"{best['labels']} labelled {counted}."
        )
        return tile(figure, alt, "Gain over training from scratch")


def _said(summary: pd.DataFrame, metric: Metric, counted: str) -> str:
    parts = [
        f"{row['arm']} {row['mean']:.3f} with {row['labels']}"
        for row in summary.dropna(subset=["mean"]).to_dict("records")
    ]
    return f"{metric.name} by number of labelled {counted}: " + "; ".join(parts)
