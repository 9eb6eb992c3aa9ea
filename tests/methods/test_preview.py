"""Whole scans in observations: small, and every point where it was in the world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from tiny import TinyBackbone

from situs.methods.base import Network
from situs.methods.composition import compose
from situs.methods.preview import LONGEST_VOX, whole_scan
from situs.pretraining.data import observed_batch
from situs.views import ArraySource


def to_mm(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ affine[:3, :3].T + affine[:3, 3]


def rotated(shape: tuple[int, int, int]) -> np.ndarray:
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * [0.8, 1.2, 2.0]
    affine[:3, 3] = [10, -20, 30]
    return affine


def test_blocks_lie_where_simpleitk_puts_them() -> None:
    shape = (300, 140, 20)
    array = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    affine = rotated(shape)
    scan = whole_scan(ArraySource(array[None], affine, "k"))
    assert scan.blocks == (3, 2, 1)
    assert max(scan.volume.array.shape) <= LONGEST_VOX
    image = sitk.GetImageFromArray(array.T)
    image.SetSpacing((0.8, 1.2, 2.0))
    image.SetDirection((affine[:3, :3] / [0.8, 1.2, 2.0]).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    binned = sitk.BinShrink(image, scan.blocks)
    np.testing.assert_allclose(scan.volume.array, sitk.GetArrayFromImage(binned).T, atol=0.02)
    for index in ((0, 0, 0), (7, 3, 11), (99, 69, 19)):
        found = to_mm(scan.volume.affine, np.array(index))
        np.testing.assert_allclose(found, binned.TransformIndexToPhysicalPoint(index), atol=1e-9)


def test_points_and_boxes_stay_in_place() -> None:
    shape = (257, 130, 40)
    source = ArraySource(np.zeros((1, *shape), np.float32), rotated(shape), "k")
    scan = whole_scan(source)
    points = np.random.default_rng(2).uniform(-5, 300, (50, 3))
    np.testing.assert_allclose(
        to_mm(scan.volume.affine, scan.points(points)), to_mm(source.affine, points)
    )
    start, size = np.array([4.0, 7, 9]), np.array([32.0, 16, 8])
    for corner in (start, start + size):  # at voxel edges
        np.testing.assert_allclose(
            to_mm(scan.volume.affine, scan.sizes(corner) - 0.5), to_mm(source.affine, corner - 0.5)
        )


def test_an_observation_of_large_scans_is_small_and_true(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    shape = (260, 260, 130)
    coarse = rng.normal(size=[-(-n // 20) for n in shape])
    array = np.kron(coarse, np.ones((20, 20, 20)))[: shape[0], : shape[1], : shape[2]]
    array = (array + 0.02 * rng.normal(size=shape)).astype(np.float32)
    sources = [ArraySource(array[None], np.diag([1.2, 1.2, 1.5, 1]), f"k{i}") for i in range(2)]
    options = {"view_size": (8, 8, 8), "chunk_size": (4, 4, 4), "width": 8, "chunk_width": 8}
    composition = compose("spatial", options).resolve_for_data(sources)
    backbone = TinyBackbone()
    network = Network(backbone, composition.build_heads(backbone)).eval()
    batch, items = observed_batch([[s] for s in sources], composition, 2, 0)
    with torch.no_grad():
        seen = composition.observe(batch, network, None, items, 0)["spatial"]
    seen.save(tmp_path / "x.obs")
    assert (tmp_path / "x.obs").stat().st_size < 1.5e6  # one scan alone: 35 MB in float32
    boxes, arrows = (section.panels[0] for section in seen.sections[1:])
    views = batch["spatial"]
    for panel in (boxes, arrows):
        assert max(panel.volume.array.shape) <= LONGEST_VOX
    np.testing.assert_allclose(
        to_mm(arrows.volume.affine, arrows.start_vox),
        to_mm(sources[0].affine, views["centers_vox"][0].numpy()),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        to_mm(boxes.volume.affine, boxes.start_vox[0] - 0.5),
        to_mm(sources[0].affine, views["start_vox"][0, 0].numpy() - 0.5),
    )
