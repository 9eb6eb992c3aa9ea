"""Figures as data: what a panel shows, never how it is drawn.

Coordinates are in the voxel frame of the volume or image that a panel carries (``_vox``,
``_px``); that volume's ``affine`` takes them to RAS mm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from situs.text import times

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Volume:
    """A scan (or a region of it) to draw on: ``array (X, Y, Z)`` and ``affine`` to RAS mm."""

    array: Array
    affine: Array
    name: str = ""

    def __repr__(self) -> str:
        return f"Volume('{self.name}', {times(self.array.shape)})"


@dataclass(frozen=True, kw_only=True, repr=False)
class Panel:
    """One figure's data. ``title`` heads it, ``caption`` says in plain words what to look for."""

    kind: ClassVar[str] = "panel"
    title: str
    caption: str = ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}('{self.title}')"


@dataclass(frozen=True, kw_only=True, repr=False)
class MatrixPanel(Panel):
    """Predicted and true matrices beside each other, ``(N, M)`` each, in ``unit``."""

    kind: ClassVar[str] = "matrix"
    predicted: Array
    true: Array
    labels: tuple[str, ...] = ()
    unit: str = "mm"


@dataclass(frozen=True, kw_only=True, repr=False)
class ScatterPanel(Panel):
    """Predicted against true values, ``(N,)`` each, with the identity line.

    ``groups`` optionally names each point's axis or class, ``(N,)`` strings.
    """

    kind: ClassVar[str] = "scatter"
    predicted: Array
    true: Array
    unit: str = "mm"
    quantity: str = ""
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, repr=False)
class CurvePanel(Panel):
    """Lines over a shared abscissa: ``x (N,)``, ``series (S, N)`` named by ``names``."""

    kind: ClassVar[str] = "curve"
    x: Array
    series: Array
    names: tuple[str, ...]
    x_label: str = ""
    y_label: str = ""


@dataclass(frozen=True, kw_only=True, repr=False)
class BoxesPanel(Panel):
    """Boxes inside a scan, for instance views and the chunks cut from them.

    Attributes:
        volume: The scan.
        start_vox: ``(N, 3)`` first voxel of each box.
        size_vox: ``(N, 3)`` extent of each box.
        names: What each box is, ``"view 0"``, ``"chunk 2"``.
        roles: Colours and line styles by role: ``"view"``, ``"chunk"``, ``"predicted"``,
            ``"true"``, ``"right"``, ``"wrong"``.
    """

    kind: ClassVar[str] = "boxes"
    volume: Volume
    start_vox: Array
    size_vox: Array
    names: tuple[str, ...]
    roles: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, repr=False)
class ArrowsPanel(Panel):
    """Vectors between points of a scan, predicted beside true.

    ``start_vox``, ``predicted_vox``, ``true_vox`` are ``(N, 3)``: where the arrow starts and
    where its predicted and true heads are. ``boxes_vox`` optionally gives the views drawn
    around them, ``(M, 2, 3)`` start and size.
    """

    kind: ClassVar[str] = "arrows"
    volume: Volume
    start_vox: Array
    predicted_vox: Array
    true_vox: Array
    boxes_vox: Array = field(default_factory=lambda: np.zeros((0, 2, 3)))
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, repr=False)
class MatchesPanel(Panel):
    """Positions matched between two volumes or two slices.

    ``left`` and ``right`` are volumes (a slice is a volume one voxel thick);
    ``left_vox``, ``predicted_vox``, ``true_vox`` are ``(N, 3)``: the point in ``left``, where
    the network puts it in ``right``, and where it truly is (NaN where unknown);
    ``right_or_wrong`` ``(N,)`` is boolean.
    """

    kind: ClassVar[str] = "matches"
    left: Volume
    right: Volume
    left_vox: Array
    predicted_vox: Array
    true_vox: Array
    right_or_wrong: Array


@dataclass(frozen=True, kw_only=True, repr=False)
class LinesPanel(Panel):
    """Lines over one 2D image, predicted beside true, with the predicted heat map.

    ``image (rows, columns)``; ``spacing`` between rows and between columns in mm; lines in
    normal form ``(N, 3)`` a·column + b·row + c = 0 in pixels (NaN where absent);
    ``heatmaps (N, rows, columns)`` predicted; ``names`` the plane that crosses the image there.
    Where known, ``affine (4, 4)`` takes a pixel (column, row, 0) to RAS mm, and ``volume`` is
    the scan that the image lies in.
    """

    kind: ClassVar[str] = "lines"
    image: Array
    spacing: tuple[float, float]
    predicted: Array
    true: Array
    heatmaps: Array
    names: tuple[str, ...]
    affine: Array | None = None
    volume: Volume | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class OverlayPanel(Panel):
    """A map over a scan: sharpness, PCA colours of features, labels, reconstruction error.

    ``overlay`` is ``(X, Y, Z)`` scalar, ``(X, Y, Z, 3)`` colours in [0, 1], or integer labels
    when ``style`` is ``"labels"``. ``true`` optionally holds the true map beside it. The overlay
    has its own ``overlay_affine`` when its grid differs from the volume's.
    """

    kind: ClassVar[str] = "overlay"
    volume: Volume
    overlay: Array
    overlay_affine: Array | None = None
    true: Array | None = None
    style: Literal["heat", "colours", "labels"] = "heat"
    label_names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, repr=False)
class ImagesPanel(Panel):
    """A row of images or volumes beside one another, for instance input, masked, rebuilt."""

    kind: ClassVar[str] = "images"
    volumes: tuple[Volume, ...]
    names: tuple[str, ...]


AnyPanel = (
    MatrixPanel
    | ScatterPanel
    | CurvePanel
    | BoxesPanel
    | ArrowsPanel
    | MatchesPanel
    | LinesPanel
    | OverlayPanel
    | ImagesPanel
)
PANELS: dict[str, type[Panel]] = {
    panel.kind: panel
    for panel in (
        MatrixPanel,
        ScatterPanel,
        CurvePanel,
        BoxesPanel,
        ArrowsPanel,
        MatchesPanel,
        LinesPanel,
        OverlayPanel,
        ImagesPanel,
    )
}
