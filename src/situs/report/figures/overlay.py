"""A map over a scan: heat, feature colours, or labels predicted beside true."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy import ndimage

from situs import text
from situs.observation import OverlayPanel
from situs.observation.panels import Array
from situs.report import style
from situs.report.figures import anatomy, boxes
from situs.report.svg import Tile, tile

_LABELS = ListedColormap(list(style.LABELS))
_HEAT_OPACITY = 0.5

ERRORS = ("none", "missed", "found where there is none", "another class")
"""How a label map can be wrong, in the order of ``style.ERRORS``."""


def on_grid(overlay: Array, overlay_affine: Array | None, panel: OverlayPanel) -> Array:
    """The overlay on the volume's own voxel grid (nearest neighbour, so labels stay labels)."""
    overlay = np.asarray(overlay)
    shape = np.asarray(panel.volume.array).shape[:3]
    if overlay_affine is None:
        if overlay.shape[:3] == shape:
            return overlay
        # Without an affine of its own, the overlay spans the same box as the volume.
        ratio = np.asarray(overlay.shape[:3]) / np.asarray(shape)
        to_overlay = np.diag([*ratio, 1.0])
        to_overlay[:3, 3] = 0.5 * ratio - 0.5
    else:
        to_overlay = np.linalg.inv(np.asarray(overlay_affine, float)) @ panel.volume.affine
    grid = np.indices(shape).reshape(3, -1)
    at = to_overlay[:3, :3] @ grid + to_overlay[:3, 3:]
    channels = overlay.reshape(*overlay.shape[:3], -1)
    fill = 0.0
    sampled = [
        ndimage.map_coordinates(channels[..., c], at, order=0, mode="grid-constant", cval=fill)
        for c in range(channels.shape[-1])
    ]
    return np.stack(sampled, axis=-1).reshape(*shape, *overlay.shape[3:])


def tiles(panel: OverlayPanel) -> list[Tile]:
    """One slice a plane through the liveliest place of the overlay; the truth in a second row."""
    volume = anatomy.of(panel.volume)
    layers = {"predicted" if panel.true is not None else "": panel.overlay}
    if panel.true is not None:
        layers["true"] = panel.true
    maps = {
        name: anatomy.canonical(
            on_grid(values, panel.overlay_affine, panel), panel.volume.affine
        ).array
        for name, values in layers.items()
    }
    if panel.style == "labels" and panel.true is not None:
        return _label_tiles(panel, volume, maps)
    limits = _limits([m for m in maps.values()]) if panel.style == "heat" else (0.0, 1.0)
    out = []
    for name, values in maps.items():
        for view in anatomy.views_at(volume, _liveliest(values, panel.style)):
            bar = 38.0 if panel.style == "heat" else 0.0
            wide, high = anatomy.figure_size(view, width=258 - bar)
            with style.figure(wide + bar, high) as figure:
                axes = anatomy.image_axes(figure, right=2.0 + bar)
                anatomy.draw_slice(axes, view)
                shown = _paint(axes, view, values, panel.style, limits)
                if shown is not None:
                    style.colour_bar(figure, axes, shown)
                heading = f"{name} {view.plane}".strip()
                alt = f"{panel.title}: {panel.style} map over {anatomy.describe(view)}, {heading}"
                out.append(tile(figure, alt, heading))
    if panel.style == "labels":
        out.insert(0, _label_legend(panel, list(maps.values()), outlines=False))
    return out


def _label_tiles(
    panel: OverlayPanel, volume: anatomy.Canonical, maps: dict[str, Array]
) -> list[Tile]:
    """Truth filled, prediction outlined, in one picture: that is where they differ at a glance."""
    out = []
    for view in anatomy.views_at(volume, _liveliest(maps["true"], "labels")):
        with style.figure(*anatomy.figure_size(view)) as figure:
            axes = anatomy.image_axes(figure)
            anatomy.draw_slice(axes, view)
            _paint(axes, view, maps["true"], "labels", (0, 1), opacity=0.5)
            _outline(axes, view, maps["predicted"])
            alt = (
                f"{panel.title}: true labels filled and predicted labels outlined over "
                f"{anatomy.describe(view)}"
            )
            out.append(tile(figure, alt, view.plane))
    legend = _label_legend(panel, list(maps.values()), outlines=True)
    return [legend, *out, *_error_tiles(panel, volume, maps)]


def error_kinds(predicted: Array, true: Array) -> Array:
    """Index into :data:`ERRORS` of every voxel of two label maps on one grid."""
    predicted, true = np.rint(predicted), np.rint(true)
    return np.select([predicted == true, predicted == 0, true == 0], [0, 1, 2], default=3)


def _error_tiles(
    panel: OverlayPanel, volume: anatomy.Canonical, maps: dict[str, Array]
) -> list[Tile]:
    """Where prediction and truth differ, in the slice of each plane where they differ most."""
    kinds = error_kinds(maps["predicted"], maps["true"])
    count = np.bincount(kinds.ravel(), minlength=len(ERRORS))
    if not kinds.any():
        return []
    worst = [int((kinds > 0).sum(axis=tuple({0, 1, 2} - {axis})).argmax()) for axis in range(3)]
    voxel_ml = float(np.prod(volume.spacing)) / 1000
    names = [f"{ERRORS[k]}: {text.number(count[k] * voxel_ml)} ml" for k in range(1, len(ERRORS))]
    handles = [Patch(facecolor=style.ERRORS[k + 1], label=name) for k, name in enumerate(names)]
    out = [boxes.legend_tile(handles, "Errors: " + ", ".join(names))]
    for view in anatomy.views_at(volume, np.asarray(worst)):
        with style.figure(*anatomy.figure_size(view)) as figure:
            axes = anatomy.image_axes(figure)
            anatomy.draw_slice(axes, view)
            rgba = ListedColormap(list(style.ERRORS))(view.image(kinds).astype(int))
            rgba[..., 3] = 0.85 * (view.image(kinds) > 0)
            axes.imshow(rgba, extent=view.extent, origin="lower", aspect="equal")
            alt = f"{panel.title}: errors over {anatomy.describe(view)}; {', '.join(names)}"
            out.append(tile(figure, alt, f"errors, {view.plane}, worst slice"))
    return out


def _paint(
    axes: Axes,
    view: anatomy.SliceView,
    values: Array,
    look: str,
    limits: tuple[float, float],
    opacity: float = 0.6,
) -> ScalarMappable | None:
    """Paint one map over the slice; returns what a colour bar can be made of, for heat."""
    image = view.image(values)
    place: dict[str, Any] = {"extent": view.extent, "origin": "lower", "aspect": "equal"}
    if look == "colours":
        present = (np.abs(image).sum(axis=-1) > 0)[..., None]
        rgba = np.concatenate([np.clip(image, 0, 1), 0.72 * present], axis=-1)
        axes.imshow(rgba, **place)
        return None
    if look == "labels":
        indices = np.rint(image).astype(int)
        rgba = _LABELS(_label_index(indices))
        rgba[..., 3] = opacity * (indices > 0)
        axes.imshow(rgba, **place)
        return None
    scale = ScalarMappable(Normalize(*limits), style.HEAT)
    # As colours: the SVG backend drops an opacity that varies over an image of numbers.
    rgba = scale.to_rgba(np.nan_to_num(image))
    rgba[..., 3] = _HEAT_OPACITY * (np.isfinite(image) & (image != 0))
    axes.imshow(rgba, **place)
    return scale


def _outline(axes: Axes, view: anatomy.SliceView, labels: Array) -> None:
    image = np.rint(view.image(labels)).astype(int)
    _, h, v = view.axes
    x = view.start_mm(h) + np.arange(image.shape[1]) * view.volume.spacing[h]
    y = view.start_mm(v) + np.arange(image.shape[0]) * view.volume.spacing[v]
    if min(image.shape) < 2:
        return
    for label in np.unique(image[image > 0]):
        axes.contour(
            x,
            y,
            (image == label).astype(float),
            levels=[0.5],
            colors=[style.LABELS[int(_label_index(label))]],
            linewidths=1.6,
            linestyles=[style.LINES["predicted"]["linestyle"]],
        )


def _label_index(label: Array | int) -> Array:
    """Colours repeat after the last one, never as background."""
    label = np.asarray(label)
    return np.where(label > 0, (label - 1) % (len(style.LABELS) - 1) + 1, 0)


def _label_legend(panel: OverlayPanel, maps: list[Array], outlines: bool) -> Tile:
    present = sorted({int(v) for m in maps for v in np.unique(np.rint(m)) if v > 0})
    names = [
        text.printable(panel.label_names[v]) if v < len(panel.label_names) else f"label {v}"
        for v in present
    ]
    handles: list[Patch | Line2D] = [
        Patch(facecolor=style.LABELS[int(_label_index(v))], alpha=0.8, label=name)
        for v, name in zip(present, names, strict=True)
    ]
    if outlines:
        ink = style.chart("muted")
        handles.append(Patch(facecolor=ink, alpha=0.5, label="true: filled"))
        handles.append(
            Line2D([], [], color=ink, label="predicted: outline", **style.LINES["predicted"])
        )
    return boxes.legend_tile(handles, "Labels: " + ", ".join(names))


def _limits(maps: list[Array]) -> tuple[float, float]:
    values = np.concatenate([np.asarray(m, float).ravel() for m in maps])
    values = values[np.isfinite(values) & (values != 0)]  # zero: nothing was looked at
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, [1, 99.5])
    return float(low), float(high) if high > low else float(low) + 1.0


def _liveliest(values: Array, look: str) -> np.ndarray:
    """Voxel with most to see around it: the centre of the labels, or of the strongest tenth."""
    strength = np.asarray(values, float)
    strength = strength.std(axis=-1) if strength.ndim == 4 else np.nan_to_num(strength)
    if look == "labels":
        strength = strength > 0
    elif strength.max() > strength.min():
        strength = strength >= np.percentile(strength, 90)
    if not np.any(strength):
        return 0.5 * (np.asarray(values.shape[:3]) - 1)
    centre = np.argwhere(strength).mean(axis=0)
    return np.asarray(centre)
