"""Baselines on slices: the same methods on networks of two dimensions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import smooth_sources, stack

from situs.backbones import BackboneConfig, build
from situs.errors import ConfigError
from situs.methods.base import Network
from situs.methods.composition import compose
from situs.methods.mae.losses import from_blocks, to_blocks
from situs.observation import ImagesPanel, iter_panels
from situs.pretraining.teacher import make_teacher
from situs.views import ArraySource

SHAPE = (30, 26, 7)  # slices lie 4 mm apart, pixels 1 mm


def stacks(count: int) -> list[ArraySource]:
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    return [replace(scan, affine=affine) for scan in smooth_sources(count, SHAPE)]


METHODS: dict[str, dict[str, Any]] = {
    "mae": {"view_size": [16, 16], "block_size": [8, 8]},
    "simclr": {"view_size": [16, 16], "zoom": [0.8, 1.2], "flip": 0.5},
    "dino": {"global_size": [16, 16], "local_size": [8, 8], "locals": 2, "prototypes": 32},
}


@pytest.mark.parametrize("name", METHODS)
def test_a_step_and_an_observation_on_slices(name: str) -> None:
    backbone = build(BackboneConfig(spatial_dims=2, options={"channels": [4, 8]}))
    method = compose(name, METHODS[name]).resolve_for_backbone(backbone)
    assert method.spatial_dims == 2
    scans = stacks(4)
    rngs = [np.random.default_rng(i) for i in range(4)]
    batch = {name: stack([method.sample([s], r)[name] for s, r in zip(scans, rngs, strict=True)])}
    network = Network(backbone, method.build_heads(backbone))
    teacher = make_teacher(network) if method.uses_teacher else None
    result = method.step(batch, network, teacher, torch.Generator())
    result.losses["total"].backward()
    assert all(p.grad is not None for p in backbone.encoder.parameters())

    with torch.no_grad():
        found = method.observe(batch, network.eval(), teacher, [[s] for s in scans], 0)[name]
    shown = [p for _, p in iter_panels(found) if isinstance(p, ImagesPanel)]
    assert shown
    for panel in shown:
        for volume in panel.volumes:
            assert 1 in volume.array.shape
            normal = volume.affine[:3, volume.array.shape.index(1)]
            np.testing.assert_allclose(normal, [0, 0, 4])


def test_a_masked_slice_is_where_its_affine_says() -> None:
    (scan,) = stacks(1)
    method = compose("mae", METHODS["mae"])
    views = method.sample([scan], np.random.default_rng(0))["mae"]
    x, y, z = views["start"][0].tolist()
    assert views["extent"].tolist() == [[16, 16, 1]]
    np.testing.assert_array_equal(
        views["image"][0, 0].numpy(), scan.array[0, x : x + 16, y : y + 16, z]
    )
    across = compose("mae", {**METHODS["mae"], "axes": [0]})
    assert across.sample([scan], np.random.default_rng(0))["mae"]["extent"].tolist() == [
        [1, 16, 16]
    ]


def test_blocks_of_slices_tile_them() -> None:
    image = torch.randn(2, 3, 8, 12)
    blocks = to_blocks(image, (4, 6))
    assert blocks.shape == (2, 4, 3, 24)
    torch.testing.assert_close(blocks[1, 3, 2].reshape(4, 6), image[1, 2, 4:, 6:])
    torch.testing.assert_close(from_blocks(blocks, (4, 6), (8, 12)), image)


def test_dimensions_do_not_mix() -> None:
    with pytest.raises(ConfigError, match="as many numbers"):
        compose("mae", {"view_size": [16, 16], "block_size": [8, 8, 8]})
    with pytest.raises(ConfigError, match="share a dimension"):
        compose("mae+simclr", {"mae": METHODS["mae"]})
