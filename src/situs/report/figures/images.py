"""A row of images or volumes beside one another, on one grey scale each."""

from __future__ import annotations

from situs import text
from situs.observation import ImagesPanel
from situs.report import style
from situs.report.figures import anatomy
from situs.report.svg import Tile, tile


def tiles(panel: ImagesPanel) -> list[Tile]:
    """The middle axial slice of each volume (or the one plane of a flat one)."""
    limits = None
    out = []
    for volume, name in zip(panel.volumes, panel.names, strict=True):
        reordered = anatomy.of(volume)
        # Input, masked and rebuilt are only comparable on the first one's grey scale.
        limits = limits or anatomy.window(reordered.array)
        view = anatomy.slice_view(reordered, anatomy.planes_of(reordered.array.shape)[0])
        with style.figure(*anatomy.figure_size(view, width=220, tallest=280)) as figure:
            anatomy.draw_slice(anatomy.image_axes(figure), view, limits)
            label = text.printable(name)
            alt = f"{panel.title}: {label}, {anatomy.describe(view)}"
            out.append(tile(figure, alt, label))
    return out
