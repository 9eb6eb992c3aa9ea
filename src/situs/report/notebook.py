"""Rich displays in a notebook: an observation, a run and a scan show themselves.

The classes call these from ``_repr_html_``, so that matplotlib is imported only when a notebook
asks. :func:`view` opens the interactive viewer where ipyniivue is installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from situs import text
from situs.errors import require
from situs.observation import ImagesPanel, Observation, Panel, Volume
from situs.report import figures, page, scene, style, summary
from situs.report.figures import data, training
from situs.report.folder import read_run
from situs.report.report import score_columns
from situs.report.sections import score_rows

if TYPE_CHECKING:
    from situs.scans.scan import Scan


def observation_html(observation: Observation) -> str:
    """Scores as a table, and the first figure of each sub-task; the others fold out."""
    sections = [
        {
            "title": text.printable(section.title),
            "explanation": text.printable(section.explanation),
            "rows": score_rows(section.scores),
            "first": figures.draw(section.panels[0]) if section.panels else [],
            "others": [
                (text.printable(panel.title), figures.draw(panel)) for panel in section.panels[1:3]
            ],
        }
        for section in observation.sections
    ]
    return _fragment(
        title=f"{observation.method} at step {observation.step}",
        sentences=[],
        warnings=[text.printable(w) for w in observation.warnings],
        sections=sections,
        tiles=[],
    )


def run_html(path: str | Path) -> str:
    """What the run learned in words, with its curves."""
    run = read_run(path)
    columns = {run.name: run.metrics}
    return _fragment(
        title=summary.headline(run),
        sentences=summary.sentences(run),
        warnings=summary.warnings(run),
        sections=[
            {
                "title": text.printable(section.title),
                "explanation": text.printable(section.explanation),
                "rows": score_rows(section.scores),
                "first": [],
                "others": [],
            }
            for observation in run.latest
            for section in observation.sections
            if section.scores
        ],
        tiles=[
            *training.score_tiles(columns, score_columns(run)),
            *training.loss_tiles(columns)[:1],
        ],
    )


def scan_html(scan: Scan) -> str:
    """Shape, spacing and modality, and the middle slice in three orientations."""
    shape = " × ".join(map(str, scan.shape))
    spacing = " × ".join(f"{s:.3g}" for s in scan.spacing)
    channels = f", {len(scan.array)} channels" if len(scan.array) > 1 else ""
    volume = Volume(np.asarray(scan.array[0], np.float32), scan.affine, "scan")
    return _fragment(
        title=f"{scan.modality} scan",
        sentences=[f"{shape} voxels of {spacing} mm{channels}; {scan.provenance.format}"],
        warnings=[],
        sections=[],
        tiles=data.thumbnail_tiles(volume),
    )


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
    from ipyniivue import Volume as Shown  # noqa: PLC0415

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


def _fragment(**context: Any) -> str:
    light = "".join(f"--{tone.css}:{tone.light};" for tone in style.TONES.values())
    dark = "".join(f"--{tone.css}:{tone.dark};" for tone in style.TONES.values())
    return page.render("notebook.html.j2", light=light, dark=dark, **context)
