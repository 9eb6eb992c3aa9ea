"""Lines where other planes cross an image, predicted beside true, over the predicted heat map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from situs import text
from situs.observation import LinesPanel
from situs.observation.panels import Array
from situs.report import style
from situs.report.figures import anatomy, boxes
from situs.report.svg import Tile, tile

_WIDTH, _TALLEST = 250.0, 360.0
_GLOW = LinearSegmentedColormap.from_list(
    "glow", [(1.0, 0.63, 0.29, 0.0), (1.0, 0.63, 0.29, 0.3), (1.0, 0.86, 0.65, 0.6)]
)


# Directions in RAS of a page's right and of its foot, by the axis closest to the normal.
_PAGE = (
    ((0.0, -1.0, 0.0), (0.0, 0.0, -1.0)),
    ((-1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
)


def upright(panel: LinesPanel) -> LinesPanel:
    """The panel turned and mirrored as radiologists see such a plane, as far as no pixel moves.

    The patient's right on the left, superior (or anterior) at the top, anterior on the left of
    a sagittal image: the same as in :mod:`~situs.report.figures.anatomy`.
    """
    if panel.affine is None:
        return panel
    column, row = np.asarray(panel.affine, float)[:3, :2].T
    right, down = np.array(_PAGE[int(np.abs(np.cross(column, row)).argmax())])
    if abs(row @ right) + abs(column @ down) > abs(column @ right) + abs(row @ down):
        panel = _transposed(panel)
        column, row = row, column
    if column @ right < 0:
        panel = _mirrored(panel)
    if row @ down < 0:
        panel = _transposed(_mirrored(_transposed(panel)))
    return panel


def _transposed(panel: LinesPanel) -> LinesPanel:
    assert panel.affine is not None
    return replace(
        panel,
        image=panel.image.T,
        spacing=panel.spacing[::-1],
        predicted=panel.predicted[:, [1, 0, 2]],
        true=panel.true[:, [1, 0, 2]],
        heatmaps=np.swapaxes(panel.heatmaps, -1, -2),
        affine=panel.affine[:, [1, 0, 2, 3]],
    )


def _mirrored(panel: LinesPanel) -> LinesPanel:
    """Columns in reverse: the new column is ``last - column``."""
    assert panel.affine is not None
    last = panel.image.shape[1] - 1
    turn = np.diag([-1.0, 1.0, 1.0, 1.0])
    turn[0, 3] = last

    def lines(old: Array) -> Array:
        return np.stack([-old[:, 0], old[:, 1], old[:, 2] + last * old[:, 0]], axis=-1)

    return replace(
        panel,
        image=panel.image[:, ::-1],
        predicted=lines(panel.predicted),
        true=lines(panel.true),
        heatmaps=panel.heatmaps[..., ::-1],
        affine=panel.affine @ turn,
    )


def tiles(panel: LinesPanel) -> list[Tile]:
    """One image a line."""
    panel = upright(panel)
    image = np.asarray(panel.image, dtype=float)
    out = []
    for n, name in enumerate(panel.names):
        heat = np.asarray(panel.heatmaps[n], float) if n < len(panel.heatmaps) else None
        out.append(_one(panel, image, n, text.printable(name), heat))
    return [boxes.legend(["true", "predicted"]), *out]


def _one(panel: LinesPanel, image: Array, n: int, name: str, heat: Array | None) -> Tile:
    rows, columns = image.shape
    dy, dx = panel.spacing
    inner = _WIDTH
    height = inner * rows * dy / (columns * dx)
    if height > _TALLEST:
        inner, height = _TALLEST * columns * dx / (rows * dy), _TALLEST
    extent = (-0.5 * dx, (columns - 0.5) * dx, (rows - 0.5) * dy, -0.5 * dy)
    low, high = anatomy.window(image)
    with style.figure(inner + 38, height + 33) as figure:
        axes = anatomy.image_axes(figure)
        axes.imshow(image, cmap="gray", vmin=low, vmax=high, extent=extent, aspect="equal")
        if heat is not None and np.isfinite(heat).any():
            axes.imshow(heat, cmap=_GLOW, vmin=0, vmax=1, extent=extent, aspect="equal")
        angle = distance = None
        for role, line in (("true", panel.true[n]), ("predicted", panel.predicted[n])):
            _line(axes, np.asarray(line, float), image.shape, panel.spacing, role)
        if np.isfinite([*panel.true[n], *panel.predicted[n]]).all():
            angle, distance = line_errors(
                panel.predicted[n], panel.true[n], (rows, columns), panel.spacing
            )
        axes.set_xlim(extent[0], extent[1])
        axes.set_ylim(extent[2], extent[3])
        axes.spines[:].set_visible(False)
        axes.set_xlabel("mm", labelpad=1)
        if panel.affine is not None:
            right, down = np.asarray(panel.affine, float)[:3, :2].T
            anatomy.directions(axes, -right, -down)
        missed = "no line to compare"
        if angle is not None:
            missed = f"off by {text.quantity(angle, '°')} and {text.quantity(distance, 'mm')}"
        alt = f"{panel.title}: line of {name} over the image, predicted and true; {missed}"
        return tile(figure, alt, f"{name}: {missed}")


def clip(line: Array, shape: tuple[int, ...]) -> np.ndarray | None:
    """The two ends ``(2, 2)`` (column, row) of a line inside an image, or None if it misses."""
    from situs.geometry.lines import clip_lines  # noqa: PLC0415 - imports torch

    ends, inside = clip_lines(line, shape)
    return ends if inside else None


def line_errors(
    predicted: Array, true: Array, shape: tuple[int, int], spacing: tuple[float, float]
) -> tuple[float, float]:
    """Angle in degrees and distance in mm of two lines: what the scores are means of.

    The distance is the mean over the true line's part in the image of the distance from the
    predicted line; two lines that cross in its middle are not 0 mm apart.
    """
    from situs.geometry.lines import (  # noqa: PLC0415 - imports torch
        line_angle_deg,
        line_offset_mm,
    )

    return (
        float(line_angle_deg(predicted, true, spacing)),
        float(line_offset_mm(predicted, true, shape, spacing)),
    )


def _line(
    axes: Axes, line: Array, shape: tuple[int, ...], spacing: tuple[float, float], role: str
) -> None:
    ends = clip(line, shape)
    if ends is None:
        return
    axes.plot(
        ends[:, 0] * spacing[1],
        ends[:, 1] * spacing[0],
        color=style.on_scan(role),
        path_effects=anatomy.HALO,
        **style.LINES[role],
    )
