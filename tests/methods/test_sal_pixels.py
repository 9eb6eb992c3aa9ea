"""Places of pixels: the loss against a plain loop, its zero, and what a blind answer gets."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.utils.data import default_collate

from situs import backbones
from situs.backbones.base import BackboneConfig
from situs.geometry import Plane
from situs.methods.base import Batch, Network
from situs.methods.sal import Sal, SalConfig
from situs.methods.sal.matching import discs_of, planes_of
from situs.methods.sal.pixels import measure_pixels, pixel
from situs.views import ArraySource

SIZE = 32


def method(shown: str = "inside") -> Sal:
    weights = {"local": 0, "spread": 0, "global": 0, "pixel": 1}
    return Sal(
        SalConfig(
            size=(SIZE, SIZE),
            spacing_mm=1.0,
            shown=shown,
            shown_mm=20.0 if shown == "inside" else None,
            position_threshold=0.35,
            weights=weights,
        )
    )


@pytest.fixture(params=["inside", "all"])
def batch(request: pytest.FixtureRequest) -> Batch:
    rng = np.random.default_rng(0)
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[:3, 3] = [900, -300, 40]  # far from the origin, as scanners put it
    scans = [
        ArraySource(
            gaussian_filter(rng.normal(size=(40, 44, 12)), 2)[None].astype(np.float32), affine
        )
        for _ in range(3)
    ]
    task = method(request.param)
    return default_collate([task.sample(scan, rng) for scan in scans])


def points(plane: Plane) -> np.ndarray:
    """RAS mm of all pixels, ``(rows, columns, 3)``, by the plane's own geometry."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return plane.to_mm(np.stack([columns, rows], -1).reshape(-1, 2)).reshape(SIZE, SIZE, 3)


def truth(batch: Batch) -> Tensor:
    """Right places of all pixels, ``(B·S, 3, rows, columns)`` RAS mm."""
    samples, pairs = batch["slices"].shape[:2]
    planes = [
        planes_of(batch, b, p)[k] for b in range(samples) for p in range(pairs) for k in (0, 1)
    ]
    return torch.from_numpy(np.stack([points(p) for p in planes])).movedim(-1, 1)


UNIT = 20.0


def test_right_places_cost_nothing_whatever_the_scans_shift(batch: Batch) -> None:
    places = truth(batch) / UNIT
    shift = torch.randn(3, 1, 3, 1, 1, dtype=torch.float64)
    places = (places.unflatten(0, (3, -1)) + shift).flatten(0, 1)
    assert float(pixel(places, batch, UNIT)) < 1e-6
    assert measure_pixels(places, batch, UNIT).overall < 1e-4


def test_equals_a_loop_over_pairs_of_slices(batch: Batch) -> None:
    generator = torch.Generator().manual_seed(0)
    places = torch.randn(len(truth(batch)), 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    cells = places.unflatten(2, (-1, 4)).unflatten(4, (-1, 4)).mean((3, 5))
    right = truth(batch).unflatten(2, (-1, 4)).unflatten(4, (-1, 4)).mean((3, 5)) / UNIT
    discs = [d for b in range(3) for p in range(2) for d in discs_of(batch, b, p)]
    middles = (np.arange(SIZE // 4) + 0.5) * 4 - 0.5
    grid = np.stack(np.meshgrid(middles, middles), -1)
    inside = [torch.from_numpy(disc.holds(grid)) for disc in discs]
    terms = []
    for scan in range(3):
        for i, j in permutations(range(4 * scan, 4 * scan + 4), 2):
            middle = cells[j][:, inside[j]].mean(1)
            true_middle = right[j][:, inside[j]].mean(1)
            predicted = middle[:, None] - cells[i][:, inside[i]]
            true = true_middle[:, None] - right[i][:, inside[i]]
            terms.append((predicted - true).norm(dim=0).mean())
    torch.testing.assert_close(pixel(places, batch, UNIT), torch.stack(terms).mean())


def test_who_reads_the_rim_of_the_disc_gets_the_constants_error(batch: Batch) -> None:
    if not batch["radius_mm"].isfinite().all():
        pytest.skip("slices shown whole: their border is what the disc takes away")
    middles = batch["disc_mm"].flatten(0, 2)[..., None, None]
    found = measure_pixels((truth(batch) - middles) / UNIT, batch, UNIT)
    assert found.constant is not None
    assert found.overall == pytest.approx(float(found.constant), rel=0.02)


def test_the_gradient_reaches_encoder_and_decoder(batch: Batch) -> None:
    task = method()
    torch.manual_seed(0)
    options = {"channels": [8, 16, 16], "strides": [2]}
    backbone = backbones.build(BackboneConfig(name="cnn", spatial_dims=2, options=options))
    network = Network(backbone, task.build_heads(backbone))
    assert task.trains_decoder
    task.step(batch, network, None, torch.Generator()).losses["total"].backward()
    assert all(p.grad is not None and p.grad.any() for p in backbone.parameters())
