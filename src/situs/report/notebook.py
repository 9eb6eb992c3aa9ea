"""The interactive viewer in a notebook cell, where ipyniivue is installed."""

from __future__ import annotations

from typing import Any

import numpy as np

from situs.errors import require
from situs.observation import ImagesPanel, Panel, Volume
from situs.report import scene
from situs.scans.scan import Scan


def view(item: Scan | Volume | Panel) -> Any:
    """An interactive 3D viewer of a scan, a volume or a panel, for a notebook cell.

    Args:
        item: What to look at; panels bring their boxes, arrows, matches and maps along.

    Returns:
        An ``ipyniivue.NiiVue`` widget.

    Raises:
        SitusError: If ipyniivue is not installed.
        ValueError: If the panel has nothing in three dimensions.
    """
    require("ipyniivue", "notebook")
    from ipyniivue import Mesh, NiiVue  # noqa: PLC0415 - optional
    from ipyniivue import Volume as Shown  # noqa: PLC0415 - optional

    files = scene.Assets(longest=256)
    built = scene.build(_panel_of(item), files)
    if built is None:
        raise ValueError("this panel has nothing in three dimensions; its figure shows it all")
    widget = NiiVue(is_radiological_convention=True, mesh_xray=0.7)
    volumes, meshes = [], []
    for layer in built.layers:
        content = files.files[layer.asset]
        if layer.kind == "mesh":
            colour = [*layer.colour, 255]
            meshes.append(Mesh(data=content, name=f"{layer.asset}.mz3", rgba255=colour))
            continue
        volume = Shown(
            data=content,
            name=f"{layer.asset}.nii.gz",
            opacity=layer.opacity if layer.on else 0.0,
            colormap="inferno" if layer.kind == "heat" else "gray",
        )
        if layer.kind == "labels":
            volume.set_colormap_label(_label_colours(layer))
        volumes.append(volume)
    widget.load_volumes(volumes)
    widget.load_meshes(meshes)
    return widget


def _label_colours(layer: scene.Layer) -> dict[str, list[Any]]:
    """A label map's colours as NiiVue takes them; the first is the background's."""
    names = layer.labels or ("nothing", "label")
    colours = [
        layer.palette[n and (n - 1) % (len(layer.palette) - 1) + 1] for n in range(len(names))
    ]
    channels = {
        channel: [int(colour[at : at + 2], 16) for colour in colours]
        for channel, at in (("R", 1), ("G", 3), ("B", 5))
    }
    return {**channels, "A": [0, *[255] * (len(names) - 1)], "labels": list(names)}


def _panel_of(item: Scan | Volume | Panel) -> Panel:
    if isinstance(item, Panel):
        return item
    volume = item
    if not isinstance(volume, Volume):
        volume = Volume(np.asarray(volume.array[0], np.float32), volume.affine, "scan")
    return ImagesPanel(title=volume.name or "scan", volumes=(volume,), names=("scan",))
