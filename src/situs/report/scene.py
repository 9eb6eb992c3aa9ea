"""3D scenes for the viewer: a scan, maps over it, and geometry as meshes, all in RAS mm.

A scene holds references into :class:`Assets`, where each distinct file is kept once however
many scenes and training steps show it.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import nibabel as nib
import numpy as np

from situs import text
from situs.files import sha256
from situs.observation import (
    ArrowsPanel,
    BoxesPanel,
    ImagesPanel,
    LinesPanel,
    MatchesPanel,
    OverlayPanel,
    Panel,
    Volume,
)
from situs.observation.panels import Array
from situs.report import mesh, style
from situs.report.figures import anatomy
from situs.report.figures.boxes import roles_of
from situs.report.figures.lines import clip
from situs.report.figures.overlay import ERRORS, error_kinds, on_grid
from situs.scans.aliases import Names

_LABEL_INTENT = 1002
_RGBA = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])
# Flat volumes have nothing to turn around.
_THIN_VOX = 4


@dataclass(frozen=True)
class Layer:
    """One thing that can be switched on and off.

    Attributes:
        name: For the reader.
        kind: ``"scan"``, ``"heat"``, ``"colours"``, ``"labels"`` or ``"mesh"``.
        asset: Key into :class:`Assets`.
        on: Whether it is shown at first.
        opacity: 0 to 1.
        colour: Red, green, blue, 0 to 255, of a mesh.
        labels: For label maps, a name an index; 0 is nothing.
        palette: For label maps, a colour an index, repeated after the last but for 0.
    """

    name: str
    kind: str
    asset: str
    on: bool = True
    opacity: float = 1.0
    colour: tuple[int, int, int] = (255, 255, 255)
    labels: tuple[str, ...] = ()
    palette: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """What the viewer shows for one panel at one training step; the first layer is the scan."""

    layers: tuple[Layer, ...]

    def document(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)


@dataclass
class Assets:
    """Files embedded in a report, each once.

    Attributes:
        longest: Volumes are averaged down until no edge is longer than this.
        names: What scans and cases are called.
        files: Key → gzipped NIfTI or MZ3 bytes.
    """

    longest: int = 128
    names: Names = field(default_factory=Names)
    files: dict[str, bytes] = field(default_factory=dict)

    def add(self, content: bytes) -> str:
        """Keep a file; the same content gives the same key."""
        key = sha256(content, digits=16)
        self.files.setdefault(key, content)
        return key

    def base64(self) -> dict[str, str]:
        """Key → base64 text."""
        return {key: base64.b64encode(content).decode() for key, content in self.files.items()}

    @property
    def size(self) -> int:
        """Bytes as base64."""
        return sum(4 * -(-len(content) // 3) for content in self.files.values())


def build(panel: Panel, assets: Assets) -> Scene | None:
    """The scene of a panel, or None where there is nothing in three dimensions."""
    make = _SCENES.get(panel.kind)
    scene = make(panel, assets) if make else None
    # A layer without a file (no wrong matches, say) has nothing to switch.
    return scene and Scene(tuple(layer for layer in scene.layers if layer.asset))


def add_scan(volume: Volume, assets: Assets) -> str:
    """A scan as 8-bit grey values, averaged down to the assets' longest edge."""
    array, affine = shrink(
        np.nan_to_num(np.asarray(volume.array, np.float32)), volume.affine, assets.longest
    )
    low, high = anatomy.window(array)
    grey = np.clip((array - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    return assets.add(_nifti(grey, affine))


def shrink(array: Array, affine: Array, longest: int) -> tuple[Array, Array]:
    """Average blocks of voxels until no edge is longer than ``longest``; the affine follows.

    Args:
        array: ``(X, Y, Z)`` or ``(X, Y, Z, C)``.
        affine: ``(4, 4)``, voxel centres to RAS mm.
        longest: Voxels.
    """
    factors = [max(1, -(-size // longest)) for size in array.shape[:3]]
    affine = np.asarray(affine, dtype=float)
    if max(factors) == 1:
        return array, affine
    padding = [(0, -size % f) for size, f in zip(array.shape, factors, strict=False)]
    padded = np.pad(array, padding + [(0, 0)] * (array.ndim - 3), mode="edge")
    blocks = [
        part for size, f in zip(padded.shape, factors, strict=False) for part in (size // f, f)
    ]
    averaged = padded.reshape(*blocks, *padded.shape[3:]).mean(axis=(1, 3, 5))
    scale = np.diag([*map(float, factors), 1.0])
    scale[:3, 3] = [(f - 1) / 2 for f in factors]
    return averaged.astype(np.float32), affine @ scale


def _boxes(panel: BoxesPanel, assets: Assets) -> Scene | None:
    if _flat(panel.volume):
        return None
    layers = [_scan_layer(panel.volume, assets)]
    radius = _radius(panel.volume)
    affine = np.asarray(panel.volume.affine, float)
    roles = roles_of(panel)
    for name, role in dict.fromkeys(zip(panel.names, roles, strict=True)):
        chosen = [
            mesh.box(affine, start - 0.5, start - 0.5 + size, radius, role in _DASHED)
            for start, size, n, r in zip(
                np.asarray(panel.start_vox, float),
                np.asarray(panel.size_vox, float),
                panel.names,
                roles,
                strict=True,
            )
            if (n, r) == (name, role)
        ]
        layers.append(_mesh_layer(name, role, chosen, assets))
    return Scene(tuple(layers))


def _arrows(panel: ArrowsPanel, assets: Assets) -> Scene | None:
    if _flat(panel.volume):
        return None
    affine = np.asarray(panel.volume.affine, float)
    radius = _radius(panel.volume)
    start, predicted, true = (
        _mm(p, affine) for p in (panel.start_vox, panel.predicted_vox, panel.true_vox)
    )
    layers = [_scan_layer(panel.volume, assets)]
    for name, role, ends in (("true", "true", true), ("predicted", "predicted", predicted)):
        arrows = [
            mesh.arrow(a, b, 1.3 * radius, role in _DASHED)
            for a, b in zip(start, ends, strict=True)
        ]
        layers.append(_mesh_layer(name, role, arrows, assets))
    if len(panel.boxes_vox):
        boxes = [
            mesh.box(affine, b[0] - 0.5, b[0] - 0.5 + b[1], 0.7 * radius)
            for b in np.asarray(panel.boxes_vox, float)
        ]
        layers.append(_mesh_layer("views", "view", boxes, assets))
    return Scene(tuple(layers))


def _matches(panel: MatchesPanel, assets: Assets) -> Scene | None:
    if _flat(panel.right):
        return None
    affine = np.asarray(panel.right.affine, float)
    radius = 1.2 * _radius(panel.right)
    found, true = _mm(panel.predicted_vox, affine), _mm(panel.true_vox, affine)
    good = np.asarray(panel.right_or_wrong, bool).ravel()
    layers = [_scan_layer(panel.right, assets)]
    layers.append(
        _mesh_layer(
            "right matches", "right", [mesh.ball(p, 2 * radius) for p in found[good]], assets
        )
    )
    misses = [
        mesh.arrow(t, p, 0.7 * radius, True) for t, p in zip(true[~good], found[~good], strict=True)
    ]
    layers.append(_mesh_layer("wrong: from truth to match", "wrong", misses, assets))
    layers.append(
        _mesh_layer(
            "true places of the wrong",
            "true",
            [mesh.ball(p, 1.6 * radius) for p in true[~good]],
            assets,
        )
    )
    return Scene(tuple(layers))


def _overlay(panel: OverlayPanel, assets: Assets) -> Scene | None:
    if _flat(panel.volume):
        return None
    layers = [_scan_layer(panel.volume, assets)]
    maps = [("predicted" if panel.true is not None else panel.title, panel.overlay, True)]
    if panel.true is not None:
        maps.append(("true", panel.true, panel.style != "labels"))
    for name, values, on in maps:
        layers.append(_map_layer(name, values, on, panel, assets))
    if panel.true is not None and panel.style == "labels":
        layers.append(_errors_layer(panel, assets))
    return Scene(tuple(layers))


def _lines(panel: LinesPanel, assets: Assets) -> Scene | None:
    """The image's frame in its scan, and in it the lines where other planes cross it."""
    if panel.volume is None or panel.affine is None or _flat(panel.volume):
        return None
    affine = np.asarray(panel.affine, float)
    radius = _radius(panel.volume)
    rows, columns = np.asarray(panel.image).shape
    corner = np.asarray([-0.5, -0.5, 0.0])
    frame = mesh.box(affine, corner, np.asarray([columns - 0.5, rows - 0.5, 0.0]), 0.7 * radius)
    layers = [
        _scan_layer(panel.volume, assets),
        _mesh_layer("this image", "view", [frame], assets),
    ]
    for n, name in enumerate(panel.names):
        for role, lines in (("true", panel.true), ("predicted", panel.predicted)):
            ends = clip(np.asarray(lines[n], float), (rows, columns))
            if ends is not None:
                a, b = _mm(np.column_stack([ends, [0.0, 0.0]]), affine)
                bar = mesh.line(a, b, 1.3 * radius, role in _DASHED)
                layers.append(_mesh_layer(f"{name}: {role}", role, [bar], assets))
    return Scene(tuple(layers))


def _images(panel: ImagesPanel, assets: Assets) -> Scene | None:
    if not panel.volumes or any(_flat(volume) for volume in panel.volumes):
        return None
    layers = [
        Layer(text.printable(name), "scan", add_scan(volume, assets), n == 0)
        for n, (volume, name) in enumerate(zip(panel.volumes, panel.names, strict=True))
    ]
    return Scene(tuple(layers))


_SCENES: dict[str, Callable[[Any, Assets], Scene | None]] = {
    "boxes": _boxes,
    "arrows": _arrows,
    "matches": _matches,
    "lines": _lines,
    "overlay": _overlay,
    "images": _images,
}
_DASHED = {"predicted", "wrong", "chunk"}


def _map_layer(name: str, values: Array, on: bool, panel: OverlayPanel, assets: Assets) -> Layer:
    label = text.printable(name)
    values, affine = _placed(values, panel)
    if panel.style == "labels":
        asset = _label_asset(values, affine, assets)
        return Layer(
            label, "labels", asset, on, 0.55, labels=panel.label_names, palette=style.LABELS
        )
    if panel.style == "colours":
        colours, affine = shrink(values.astype(np.float32), affine, assets.longest)
        rgba = np.zeros(colours.shape[:3], _RGBA)
        for c, channel in enumerate("RGB"):
            rgba[channel] = np.clip(colours[..., c] * 255, 0, 255)
        rgba["A"] = np.where(np.abs(colours).sum(-1) > 0, 255, 0)
        return Layer(label, "colours", assets.add(_nifti(rgba, affine)), on, 0.6)
    heat, affine = shrink(np.nan_to_num(values.astype(np.float32)), affine, assets.longest)
    low, high = np.percentile(heat, [1, 99.5])
    grey = np.clip((heat - low) / ((high - low) or 1) * 255, 0, 255).astype(np.uint8)
    return Layer(label, "heat", assets.add(_nifti(grey, affine)), on, 0.6)


def _errors_layer(panel: OverlayPanel, assets: Assets) -> Layer:
    """Where predicted and true labels differ, and how."""
    predicted, affine = _placed(np.rint(panel.overlay), panel)
    true, _ = _placed(np.rint(np.asarray(panel.true)), panel)
    kinds = error_kinds(predicted, true)
    asset = _label_asset(kinds, affine, assets) if kinds.any() else ""
    return Layer("errors", "labels", asset, False, 0.8, labels=ERRORS, palette=style.ERRORS)


def _placed(values: Array, panel: OverlayPanel) -> tuple[Array, Array]:
    """A map of the panel, brought to the volume's grid unless it has an affine of its own."""
    values = np.asarray(values)
    if panel.overlay_affine is not None:
        return values, np.asarray(panel.overlay_affine, float)
    if values.shape[:3] != np.asarray(panel.volume.array).shape[:3]:
        values = on_grid(values, None, panel)
    return values, np.asarray(panel.volume.affine, float)


def _label_asset(values: Array, affine: Array, assets: Assets) -> str:
    step = max(1, -(-max(values.shape[:3]) // assets.longest))
    index = np.rint(values[::step, ::step, ::step]).astype(np.uint8)
    return assets.add(_nifti(index, affine @ np.diag([step, step, step, 1.0]), _LABEL_INTENT))


def _scan_layer(volume: Volume, assets: Assets) -> Layer:
    # A copy of a scan has the scan's key within its name.
    name = text.printable(assets.names.within(assets.names.of(volume.name))) or "scan"
    return Layer(name, "scan", add_scan(volume, assets))


def _mesh_layer(name: str, role: str, parts: list[mesh.Mesh], assets: Assets) -> Layer:
    whole = mesh.join(parts)
    tone = style.TONES.get(role, style.TONES["view"]).on_scan.lstrip("#")
    red, green, blue = (int(tone[i : i + 2], 16) for i in (0, 2, 4))
    asset = assets.add(mesh.to_mz3(whole)) if len(whole.faces) else ""
    return Layer(text.printable(name), "mesh", asset, colour=(red, green, blue))


def _mm(points_vox: Array, affine: Array) -> Array:
    points = np.asarray(points_vox, float).reshape(-1, 3)
    return np.asarray(points @ affine[:3, :3].T + affine[:3, 3])


def _radius(volume: Volume) -> float:
    """Of a line: a two-hundred-and-twentieth of the scan's diagonal."""
    spacing = np.linalg.norm(np.asarray(volume.affine, float)[:3, :3], axis=0)
    return float(np.linalg.norm(np.asarray(volume.array).shape[:3] * spacing)) / 220


def _flat(volume: Volume) -> bool:
    return min(np.asarray(volume.array).shape[:3]) < _THIN_VOX


def _nifti(array: Array, affine: Array, intent: int = 0) -> bytes:
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.header["intent_code"] = intent
    return gzip.compress(image.to_bytes(), 6, mtime=0)
