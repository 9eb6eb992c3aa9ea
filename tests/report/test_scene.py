"""3D scenes: geometry in mm, volumes that keep their place, files that are kept once."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import report_samples as samples

from situs.observation import LinesPanel, OverlayPanel, Volume
from situs.report import mesh, page, scene

OBLIQUE = np.asarray([[0.0, -2, 0, 10], [1.5, 0, 0.5, -4], [0.3, 0, 3, 7], [0, 0, 0, 1]])


def volume_of(body: mesh.Mesh) -> float:
    """Of a closed mesh, by the divergence theorem; negative where faces look inwards."""
    a, b, c = (body.vertices[body.faces[:, k]].astype(float) for k in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def test_tubes_cones_and_balls_are_closed_and_face_outwards() -> None:
    start, end = np.asarray([1.0, 2, 3]), np.asarray([4.0, 6, 3])
    bar = mesh.tube(start, end, 0.5)
    octagon = 2 * np.sqrt(2) * 0.5**2
    assert volume_of(bar) == pytest.approx(5 * octagon, rel=1e-5)
    cone = mesh.tube(start, end, 0.5, 0.0)
    assert volume_of(cone) == pytest.approx(5 * octagon / 3, rel=1e-5)
    assert 0.5 < volume_of(mesh.ball(start, 1.0)) < 4.19
    for body in (bar, mesh.ball(start, 1.0)):
        edges = np.sort(body.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        ends = body.vertices[edges].round(5).reshape(len(edges), 6)
        assert (np.unique(ends, axis=0, return_counts=True)[1] % 2 == 0).all()


def test_an_arrow_ends_at_its_head_and_dashes_leave_gaps() -> None:
    start, end = np.zeros(3), np.asarray([0.0, 0, 40])
    whole, dashed = (mesh.arrow(start, end, 0.5, d) for d in (False, True))
    assert whole.vertices[:, 2].max() == pytest.approx(40)
    assert volume_of(dashed) < 0.75 * volume_of(whole)
    assert len(mesh.arrow(start, start, 0.5).faces) == 0
    assert len(mesh.arrow(start, np.full(3, np.nan), 0.5).faces) == 0


def test_a_box_has_its_corners_where_the_affine_puts_them() -> None:
    body = mesh.box(OBLIQUE, np.asarray([1.0, 2, 3]), np.asarray([5.0, 6, 9]), 1e-4)
    corners = [[x, y, z] for x in (1, 5) for y in (2, 6) for z in (3, 9)]
    for corner in corners:
        place = OBLIQUE[:3, :3] @ corner + OBLIQUE[:3, 3]
        assert np.linalg.norm(body.vertices - place, axis=1).min() < 1e-3


def test_mz3_holds_the_mesh() -> None:
    body = mesh.tube(np.zeros(3), np.ones(3), 0.2)
    raw = gzip.decompress(mesh.to_mz3(body))
    magic, kind, faces, vertices, skip = struct.unpack("<HHIII", raw[:16])
    assert (magic, kind, faces, vertices, skip) == (23117, 3, len(body.faces), 18, 0)
    read = np.frombuffer(raw, "<f4", offset=16 + 12 * faces).reshape(-1, 3)
    np.testing.assert_array_equal(read, body.vertices)


def test_averaging_down_keeps_every_point_in_place() -> None:
    rng = np.random.default_rng(0)
    array = rng.random((24, 18, 9)).astype(np.float32)
    small, affine = scene.shrink(array, OBLIQUE, 8)
    assert max(small.shape) <= 8
    assert small[1, 1, 0] == pytest.approx(array[3:6, 3:6, 0:2].mean())
    centre = OBLIQUE[:3, :3] @ [4, 4, 0.5] + OBLIQUE[:3, 3]
    np.testing.assert_allclose(affine[:3, :3] @ [1, 1, 0] + affine[:3, 3], centre)
    odd, _ = scene.shrink(array[:, :, :7], OBLIQUE, 8)
    assert odd.shape == (8, 6, 7)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("boxes", 4),
        ("arrows", 4),
        ("matches", 4),
        ("lines", 6),
        ("heat", 2),
        ("labels", 4),
        ("images", 3),
    ],
)
def test_scenes_hold_the_scan_first_and_a_layer_a_thing(name: str, layers: int) -> None:
    assets = scene.Assets(longest=32)
    built = scene.build(samples.panels(np.random.default_rng(0), 3.0)[name], assets)
    assert built is not None
    assert built.layers[0].kind == "scan"
    assert len(built.layers) >= layers
    assert {layer.asset for layer in built.layers} <= set(assets.files)
    scan = nib.Nifti1Image.from_bytes(gzip.decompress(assets.files[built.layers[0].asset]))
    assert scan.get_data_dtype() == np.uint8
    assert max(scan.shape) <= 32
    count = len(assets.files)
    scene.build(samples.panels(np.random.default_rng(0), 3.0)[name], assets)
    assert len(assets.files) == count, "the same files were kept twice"


def test_flat_images_and_charts_have_no_scene() -> None:
    panels = samples.panels(np.random.default_rng(0))
    for name in ("scatter", "matrix", "curve"):
        assert scene.build(panels[name], scene.Assets()) is None
    placeless = replace(panels["lines"], volume=None)  # type: ignore[call-arg]
    assert scene.build(placeless, scene.Assets()) is None


def test_errors_of_a_segmentation_are_told_apart() -> None:
    true, predicted = np.zeros((8, 8, 8), int), np.zeros((8, 8, 8), int)
    true[1, 1, 1], predicted[2, 2, 2] = 1, 2
    true[3, 3, 3], predicted[3, 3, 3] = 1, 2
    true[4, 4, 4] = predicted[4, 4, 4] = 1
    panel = OverlayPanel(
        title="t",
        volume=Volume(np.zeros((8, 8, 8)), np.eye(4)),
        overlay=predicted,
        overlay_affine=OBLIQUE,
        true=true,
        style="labels",
    )
    assets = scene.Assets()
    built = scene.build(panel, assets)
    assert built is not None
    layer = built.layers[-1]
    assert (layer.name, layer.on) == ("errors", False)
    image = nib.Nifti1Image.from_bytes(gzip.decompress(assets.files[layer.asset]))
    np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-6)
    shown = {tuple(p): layer.labels[image.dataobj[tuple(p)]] for p in np.argwhere(image.dataobj)}
    assert shown == {
        (1, 1, 1): "missed",
        (2, 2, 2): "found where there is none",
        (3, 3, 3): "another class",
    }
    perfect = scene.build(replace(panel, overlay=true), assets)
    assert perfect is not None
    assert [x.name for x in perfect.layers] == ["scan", "predicted", "true"]


def test_lines_lie_in_their_image_where_the_header_puts_it() -> None:
    panel = samples.panels(np.random.default_rng(0))["lines"]
    assert isinstance(panel, LinesPanel)
    assert panel.affine is not None
    assets = scene.Assets()
    built = scene.build(panel, assets)
    assert built is not None
    for n, name in enumerate(panel.names):
        (layer,) = [x for x in built.layers if x.name == f"{name}: true"]
        raw = gzip.decompress(assets.files[layer.asset])
        faces, vertices = struct.unpack("<II", raw[4:12])
        places = np.frombuffer(raw, "<f4", 3 * vertices, 16 + 12 * faces).reshape(-1, 3)
        pixels = np.c_[places, np.ones(vertices)] @ np.linalg.inv(panel.affine).T
        a, b, c = panel.true[n]
        thick = 1.0  # px: more than the radius of the bar
        assert np.abs(a * pixels[:, 0] + b * pixels[:, 1] + c).max() < thick
        assert np.abs(pixels[:, 2]).max() < thick


def test_the_shipped_viewer_is_the_published_one() -> None:
    known = json.loads((page.NIIVUE.parent / "VERSION.json").read_text())
    assert hashlib.sha256(page.NIIVUE.read_bytes()).hexdigest() == known["sha256"]
    assert "BSD 2-Clause" in page.viewer_licence()
