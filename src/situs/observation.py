"""What a network said beside what was true, in physical units: data only, no drawing.

Methods return an :class:`Observation`; ``situs.observe`` draws any of them without knowing the
network. A method composes its observation from a handful of panel types, so that a new method
needs no drawing code. Coordinates are in the voxel frame of the volume or image that a panel
carries (``_vox``, ``_px``); that volume's ``affine`` takes them to RAS mm.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, get_type_hints

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Score:
    """One number that says how well a sub-task is solved.

    Attributes:
        name: Stable key, the same in the progress bar, metrics file and report, for instance
            ``"gap_mae"``.
        value: Mean over the observed samples.
        unit: ``"mm"``, ``"°"``, ``"%"`` (0 to 100) or ``""``.
        better: Which direction is better.
        chance: The value that guessing would give, where it is defined.
        trivial: The value of the best constant predictor (mean, centre), where it is defined.
        label: Words for a reader, for instance ``"gap error"``.
        samples: One value a sample, aligned with :attr:`Observation.scans`; empty where the
            score is not a mean over samples (R², say).
        by_construction: The network cannot but reach this value (a closed round trip of
            differences, say): shown, but not counted as learned.
        collapsed: The value that features have which all point the same way. Such a score
            watches over the network's health: shown, but not counted as learned.
    """

    name: str
    value: float
    unit: str
    better: Literal["lower", "higher"]
    chance: float | None = None
    trivial: float | None = None
    label: str = ""
    samples: tuple[float, ...] = ()
    by_construction: bool = False
    collapsed: float | None = None


@dataclass(frozen=True)
class Volume:
    """A scan (or a region of it) to draw on: ``array (X, Y, Z)`` and ``affine`` to RAS mm."""

    array: Array
    affine: Array
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One figure's data. ``title`` heads it, ``caption`` says in plain words what to look for."""

    kind: ClassVar[str] = "panel"
    title: str
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class MatrixPanel(Panel):
    """Predicted and true matrices beside each other, ``(N, M)`` each, in ``unit``."""

    kind: ClassVar[str] = "matrix"
    predicted: Array
    true: Array
    labels: tuple[str, ...] = ()
    unit: str = "mm"


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class CurvePanel(Panel):
    """Lines over a shared abscissa: ``x (N,)``, ``series (S, N)`` named by ``names``."""

    kind: ClassVar[str] = "curve"
    x: Array
    series: Array
    names: tuple[str, ...]
    x_label: str = ""
    y_label: str = ""


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class LinesPanel(Panel):
    """Lines over one 2D image, predicted beside true, with the predicted heat map.

    ``image (rows, columns)``; ``spacing`` between rows and between columns in mm; lines in
    normal form ``(N, 3)`` a·column + b·row + c = 0 in pixels (NaN where absent);
    ``heatmaps (N, rows, columns)`` predicted; ``names`` the plane that cuts the image there.
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


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True)
class Section:
    """One sub-task: its words, its scores, its figures."""

    title: str
    explanation: str
    scores: tuple[Score, ...] = ()
    panels: tuple[Panel, ...] = ()


@dataclass(frozen=True)
class Observation:
    """Everything one look at a network gave, at one training step, on held-out samples.

    Attributes:
        method: Name of the method (or of the part of a composition).
        step: Optimiser steps done when it was taken.
        sections: One a sub-task.
        warnings: Plain-language warnings (collapse, drift), each with what to try.
        scans: Key of the scan behind each observed sample, aligned with ``Score.samples``.
        modalities: Modality of each of those scans.
        spacings: Spacing of each in mm.
    """

    method: str
    step: int
    sections: tuple[Section, ...]
    warnings: tuple[str, ...] = ()
    scans: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    spacings: tuple[tuple[float, float, float], ...] = ()

    @property
    def scores(self) -> dict[str, Score]:
        """All scores by name."""
        return {score.name: score for section in self.sections for score in section.scores}

    def _repr_html_(self) -> str:
        """Scores and figures, in a notebook."""
        from situs.observe.notebook import observation_html  # noqa: PLC0415 - draws

        return observation_html(self)

    def save(self, path: str | Path) -> None:
        """Write to one zip file: ``observation.json`` beside one ``.npy`` an array."""
        arrays: dict[str, Array] = {}
        document = json.dumps(_encode(self, arrays, "o"), allow_nan=True)
        path = Path(path)
        partial = path.with_name(path.name + ".partial")
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("observation.json", document)
            for name, array in arrays.items():
                buffer = io.BytesIO()
                np.save(buffer, array, allow_pickle=False)
                archive.writestr(f"{name}.npy", buffer.getvalue())
        partial.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Observation:
        """Read what :meth:`save` wrote; nothing is unpickled."""
        with zipfile.ZipFile(path) as archive:
            document = json.loads(archive.read("observation.json"))

            def array(name: str) -> Array:
                with archive.open(f"{name}.npy") as stream:
                    return np.load(io.BytesIO(stream.read()), allow_pickle=False)

            return _decode(document, array)


_TYPES: dict[str, type] = {
    **{cls.__name__: cls for cls in PANELS.values()},
    **{cls.__name__: cls for cls in (Score, Volume, Section, Observation)},
}


def _encode(value: Any, arrays: dict[str, Array], name: str) -> Any:
    if isinstance(value, np.ndarray):
        # A scan that several panels show is written once.
        known = next((n for n, array in arrays.items() if array is value), None)
        arrays[known or name] = value
        return {"array": known or name}
    if type(value).__name__ in _TYPES:
        return {
            "type": type(value).__name__,
            **{
                f.name: _encode(getattr(value, f.name), arrays, f"{name}.{f.name}")
                for f in fields(value)
            },
        }
    if isinstance(value, tuple | list):
        return [_encode(item, arrays, f"{name}.{i}") for i, item in enumerate(value)]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _decode(value: Any, array: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item, array) for item in value)
    if isinstance(value, dict) and "type" not in value:
        return array(value["array"])
    if isinstance(value, dict):
        cls = _TYPES[value["type"]]
        known = get_type_hints(cls)
        return cls(**{k: _decode(v, array) for k, v in value.items() if k in known})
    return value


def iter_panels(observation: Observation) -> Iterator[tuple[Section, Panel]]:
    """Every panel with the section it belongs to, in order."""
    for section in observation.sections:
        for panel in section.panels:
            yield section, panel
