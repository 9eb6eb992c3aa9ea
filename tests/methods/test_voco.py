"""VoCo: overlaps by counting voxels, losses against loops, and learning from real overlaps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TinyBackbone, smooth_sources, stack

from situs.config import validate
from situs.errors import ConfigError
from situs.methods.base import Network
from situs.methods.voco import Voco, VocoConfig, prediction, regularization
from situs.methods.voco.losses import predicted_overlap
from situs.methods.voco.observation import centre_from_overlap
from situs.methods.voco.views import base_starts, overlaps, sample_region
from situs.observation import Observation

SIZES = st.tuples(*[st.integers(2, 5)] * 3)


@settings(deadline=None, max_examples=30)
@given(grid=st.tuples(*[st.integers(1, 3)] * 3), size=SIZES, seed=st.integers(0, 99))
def test_overlap_is_what_counting_voxels_gives_and_says_where_the_crop_is(grid, size, seed):
    bases = base_starts(grid, size)
    region = np.asarray(grid) * size
    owner = np.full(region, -1)
    for k, start in enumerate(bases):
        box = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
        assert (owner[box] == -1).all(), "bases do not overlap"
        owner[box] = k
    assert (owner >= 0).all(), "bases tile the region"

    crops = np.random.default_rng(seed).integers(0, region - size, (4, 3), endpoint=True)
    share = overlaps(crops, bases, size)
    for start, row in zip(crops, share, strict=True):
        box = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
        counted = np.bincount(owner[box].ravel(), minlength=len(bases)) / np.prod(size)
        np.testing.assert_allclose(row, counted, atol=1e-12)
    place = centre_from_overlap(torch.from_numpy(share)[None], torch.from_numpy(bases)[None])
    np.testing.assert_allclose(place[0], crops, atol=1e-9)


def _reference(crops, bases, overlap, form):
    """Crop by crop and pair by pair."""

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    values, pairs = [], []
    for crop, base, share in zip(crops, bases, overlap, strict=True):
        guess = np.array([[max(0, cosine(c, b)) for b in base] for c in crop])
        surprise = -np.log(1 - np.abs(share - guess))
        if form == "paper":
            values.append(surprise.mean())
        else:
            empty = guess[share == 0]
            values.append((surprise * share).sum() / share.sum() + (empty**2).sum() / len(empty))
        for i in range(len(base)):
            for j in range(i):
                s = cosine(base[i], base[j])
                pairs.append(abs(s) if form == "paper" else max(0, s) ** 2)
    return np.mean(values), np.mean(pairs)


@pytest.mark.parametrize("form", ["paper", "released"])
def test_terms_equal_loops(form):
    rng = np.random.default_rng(0)
    crops, bases = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 6, 5))
    overlap = rng.dirichlet(np.full(6, 0.3), (3, 4))
    overlap[overlap < 0.1] = 0
    crops, bases, overlap = (torch.from_numpy(a) for a in (crops, bases, overlap))
    found = prediction(predicted_overlap(crops, bases), overlap, form)
    expected = _reference(crops.numpy(), bases.numpy(), overlap.numpy(), form)
    assert found.item() == pytest.approx(expected[0], rel=1e-4)
    assert regularization(bases, form).item() == pytest.approx(expected[1], rel=1e-4)


@pytest.mark.parametrize("form", ["paper", "released"])
def test_right_answers_cost_nothing_and_extremes_stay_finite(form):
    overlap = torch.eye(4)[None]
    bases = torch.eye(4)[None].requires_grad_()
    found = prediction(predicted_overlap(torch.eye(4)[None], bases), overlap, form)
    assert found.item() == pytest.approx(0, abs=1e-5)
    assert regularization(bases, form).item() == pytest.approx(0, abs=1e-5)
    crops = torch.roll(torch.eye(4), 1, 0)[None].requires_grad_()
    worst = prediction(predicted_overlap(crops, bases), overlap, form)
    worst.backward()
    assert torch.isfinite(worst)
    assert torch.isfinite(crops.grad).all()
    same = torch.ones(1, 3, 4)
    assert regularization(same, form).item() == pytest.approx(1)


def test_no_gradient_reaches_the_bases_through_the_prediction():
    method = Voco(VocoConfig(grid=(2, 1, 1), crop_size=(4, 4, 4), weights={"regularization": 0}))
    batch = stack([method.sample(s, np.random.default_rng(0)) for s in smooth_sources(2, (9,) * 3)])
    backbone = TinyBackbone()
    network = Network(backbone, method.build_heads(backbone))
    batch["views"].requires_grad_()
    method.step(batch, network, None, torch.Generator()).losses["total"].backward()
    assert batch["views"].grad[:, :2].abs().max() == 0
    assert batch["views"].grad[:, 2:].abs().max() > 0


def test_crops_come_from_where_they_say():
    (source,) = smooth_sources(1, (20, 9, 14))
    config = VocoConfig(
        grid=(3, 2, 2), crop_size=(4, 6, 5), crops=3, intensity={"probability": 0.0}
    )
    batch = sample_region(source, config, np.random.default_rng(1))
    for view, start in zip(batch["views"], batch["start"], strict=True):
        np.testing.assert_array_equal(view, source.read(start.tolist(), config.crop_size))
    larger = sample_region(
        source, config.model_copy(update={"view_size": (8, 6, 10)}), np.random.default_rng(1)
    )
    assert larger["views"].shape == (15, 1, 8, 6, 10)
    assert torch.equal(larger["overlap"], batch["overlap"])


@pytest.mark.parametrize("teacher", [False, True])
def test_training_places_crops_of_scans_never_seen(teacher, tmp_path):
    torch.manual_seed(0)
    options = {"grid": (3, 1, 1), "crop_size": (6, 6, 6), "hidden": 32, "width": 16}
    method = Voco(validate(VocoConfig, {**options, "teacher": teacher}))
    assert method.uses_teacher is teacher
    sources = smooth_sources(12, (18, 6, 6))
    # Something that tells places along the first axis, alike in all scans.
    ramp = np.linspace(-2, 2, 18, dtype=np.float32)[:, None, None]
    sources = [type(s)(s.array * 0.3 + ramp, s.affine, s.key) for s in sources]
    backbone = TinyBackbone(torch.nn.BatchNorm3d)
    network = Network(backbone, method.build_heads(backbone))
    averaged = network if teacher else None
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    rng = np.random.default_rng(0)
    for _ in range(80):
        batch = stack([method.sample(s, rng) for s in sources[:8]])
        optimiser.zero_grad()
        method.step(batch, network, averaged, torch.Generator()).losses["total"].backward()
        optimiser.step()
    items = [[s] for s in sources[8:]]
    batch = stack([method.sample(item[0], rng) for item in items])
    with torch.no_grad():
        seen = method.observe(batch, network.eval(), averaged, items, 80)
    assert seen.scores["overlap_r2"].value > 0.3
    assert seen.scores["overlap_mae"].value < 0.7 * seen.scores["overlap_mae"].chance
    assert seen.scores["position_error"].value < seen.scores["position_error"].constant
    seen.save(tmp_path / "o.obs")
    assert Observation.load(tmp_path / "o.obs").scores == seen.scores


def test_one_base_is_refused():
    with pytest.raises(ConfigError, match="at least 2 base crops"):
        validate(VocoConfig, {"grid": (1, 1, 1)})
