"""Lines over a shared abscissa."""

from __future__ import annotations

import numpy as np

from situs import text
from situs.observation import CurvePanel
from situs.report import style
from situs.report.svg import Tile, tile


def tiles(panel: CurvePanel) -> list[Tile]:
    """One chart; series named "true" and "predicted" look as truth and prediction do elsewhere."""
    x = np.asarray(panel.x, dtype=float)
    series = np.atleast_2d(np.asarray(panel.series, dtype=float))
    names = [text.printable(name) for name in panel.names]
    with style.figure(320, 240) as figure:
        axes = style.axes(figure)
        axes.grid(alpha=0.6)
        for n, (values, name) in enumerate(zip(series, names, strict=True)):
            role = next((r for r in ("predicted", "true", "guess") if r in name.lower()), None)
            look = style.LINES[role] if role else {"linestyle": style.SERIES_LINES[n % 4]}
            axes.plot(
                x,
                values,
                label=name,
                color=style.chart(role) if role else style.SERIES[n % len(style.SERIES)],
                marker=style.MARKERS.get(role or "", None) if len(x) <= 40 else None,
                markersize=3.2,
                **look,
            )
        axes.set_xlabel(text.printable(panel.x_label))
        axes.set_ylabel(text.printable(panel.y_label))
        axes.margins(x=0.02)
        if len(names) > 1:
            axes.legend(loc="best", handlelength=2.2)
        alt = f"{panel.title}: {', '.join(names)} over {panel.x_label or 'the abscissa'}"
        return [tile(figure, alt)]
