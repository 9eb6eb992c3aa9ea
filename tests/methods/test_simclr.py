"""SimCLR: NT-Xent against its definition, under two processes, and the views' geometry."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TinyBackbone, smooth_sources, stack

from situs.config import validate
from situs.errors import ConfigError
from situs.methods.base import Nets, Network, Samples, Scores
from situs.methods.retrieval import Predicted
from situs.methods.simclr import SimClr, SimClrConfig, nt_xent
from situs.observation import Observation
from situs.views import ArraySource
from situs.views.crops import Crop, cut_crop, draw_near


def _reference(first, second, temperature):
    """Equation 1 of the paper, pair by pair."""
    views = [v / np.linalg.norm(v) for v in (*first, *second)]
    n = len(first)
    terms = []
    for i, v in enumerate(views):
        scores = [np.exp(v @ w / temperature) for k, w in enumerate(views) if k != i]
        terms.append(-np.log(np.exp(v @ views[(i + n) % (2 * n)] / temperature) / sum(scores)))
    return np.mean(terms)


@settings(deadline=None, max_examples=20)
@given(
    batch=st.integers(1, 6),
    width=st.integers(2, 9),
    temperature=st.floats(0.05, 2),
    seed=st.integers(0, 99),
)
def test_nt_xent_is_the_papers_formula(batch, width, temperature, seed):
    first, second = np.random.default_rng(seed).normal(size=(2, batch, width))
    loss = nt_xent(torch.from_numpy(first), torch.from_numpy(second), temperature)
    assert loss.item() == pytest.approx(_reference(first, second, temperature), rel=1e-4)


def test_nt_xent_does_not_see_scale_order_or_which_view_is_first():
    first, second = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    loss = nt_xent(first, second).item()
    order = torch.tensor([3, 1, 4, 0, 2])
    assert nt_xent(first[order] * 3, second[order] * 0.2).item() == pytest.approx(loss)
    assert nt_xent(second, first).item() == pytest.approx(loss)
    aligned = nt_xent(torch.eye(5), torch.eye(5), 0.1).item()
    assert aligned == pytest.approx(np.log(1 + 8 * np.exp(-10)), abs=1e-5)


def _views(requires_grad=True):
    g = torch.Generator().manual_seed(1)
    return [torch.randn(6, 4, generator=g).requires_grad_(requires_grad) for _ in range(2)]


def _one_process(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/sync", rank=rank, world_size=2)
    first, second = _views()
    mine = slice(rank * 3, rank * 3 + 3)
    loss = nt_xent(first[mine], second[mine])
    loss.backward()
    # What distributed training does with gradients and what a logger does with the loss.
    for value in (first.grad, second.grad, loss.detach()):
        dist.all_reduce(value)
        value.div_(2)
    if rank == 0:
        torch.save([loss.detach(), first.grad, second.grad], f"{folder}/result.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_loss_and_gradient_of_one(tmp_path):
    # Forked, so that the processes need not import everything again.
    mp.start_processes(_one_process, args=(str(tmp_path),), nprocs=2, start_method="fork")
    loss, *gradients = torch.load(tmp_path / "result.pt", weights_only=True)
    first, second = _views()
    expected = nt_xent(first, second)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    # Candidates pass their gradient back to where they came from, so the average is the whole.
    for gradient, whole in zip(gradients, (first.grad, second.grad), strict=True):
        torch.testing.assert_close(gradient, whole, atol=1e-6, rtol=1e-4)


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(*[st.integers(10, 60)] * 3),
    shift=st.floats(0, 0.9),
    seed=st.integers(0, 99),
)
def test_crops_stay_inside_long_axes_and_near_each_other(shape, shift, seed):
    size = (16, 20, 24)
    crops = draw_near(shape, size, (0.8, 1.25), 0.0, shift, np.random.default_rng(seed))
    centres = []
    for crop in crops:
        start, extent = np.asarray(crop.start), np.asarray(crop.extent)
        room = np.asarray(shape) >= extent
        assert (start[room] >= 0).all()
        assert (start + extent <= shape)[room].all()
        assert np.abs(2 * start + extent - shape)[~room].max(initial=0) <= 1
        ratio = extent / size
        assert (ratio > 0.75).all()
        assert (ratio < 1.3).all()
        centres.append(start + extent / 2)
    # Staying inside can move the second crop back by the difference of the extents.
    allowed = shift * np.asarray(size) + 0.25 * np.asarray(size) + 1
    assert (np.abs(centres[0] - centres[1]) <= allowed).all()


def test_resampling_keeps_places_and_flips_mirror_them():
    x, y, z = np.meshgrid(*[np.arange(20.0)] * 3, indexing="ij")
    source = ArraySource(np.stack([x + 100 * y + 10_000 * z]).astype(np.float32))
    crop = Crop((2, 4, 6), (6, 10, 8), (False, False, True))
    view = cut_crop(source, crop, (12, 10, 4))
    # Centres of the resampled voxels, clamped to the outermost centres of the crop.
    expected_x = np.clip((np.arange(12) + 0.5) / 2 - 0.5, 0, 5) + 2
    expected_z = ((np.arange(4) + 0.5) * 2 - 0.5 + 6)[::-1]
    expected = expected_x[:, None, None] + 100 * np.arange(4, 14)[:, None] + 10_000 * expected_z
    np.testing.assert_allclose(view[0], expected, rtol=1e-6)


def test_observation_counts_right_neighbours_and_puts_views_in_the_world():
    sources = smooth_sources(4, (14, 12, 10))
    method = SimClr(SimClrConfig(view_size=(8, 8, 8), zoom=(0.5, 0.5)))
    rng = np.random.default_rng(0)
    batch = stack([method.sample(s, rng) for s in sources])
    embeddings = torch.eye(4)[:, None].repeat(1, 2, 1)
    embeddings[3, 0] = torch.tensor([1.0, 0, 0, 0.5])
    samples = Samples(batch, [[s] for s in sources])
    predicted = Predicted(embeddings, torch.randn(4, 2, 5))
    score = method.measure(samples, predicted)[0].score()
    assert (score.value, score.chance, score.samples) == (75, 25, (100, 100, 100, 0))
    section = method.sections(
        samples, predicted, Nets(Network(TinyBackbone(), torch.nn.Identity())), Scores()
    )[0]
    volume = section.panels[1].volumes[0]
    source, start = sources[0], batch["start"][0, 0].numpy()
    low, high = ([*(start + o), 1] for o in (-0.5, 3.5))
    corners = [volume.affine @ [c, c, c, 1] for c in (-0.5, 7.5)]
    np.testing.assert_allclose(corners[0], source.affine @ low)
    np.testing.assert_allclose(corners[1], source.affine @ high)


@pytest.mark.slow
def test_training_finds_scans_again_and_repeats_itself(tmp_path):
    torch.manual_seed(0)
    # Of views that lie close and differ much in brightness an untrained network knows a third.
    changes = {"max_shift": 0.2, "intensity": {"shift": 2.0, "gain": 0.5}}
    options = {"view_size": (8, 8, 8), "hidden": 32, "width": 16, **changes}
    method = SimClr(validate(SimClrConfig, options))
    sources = smooth_sources(24, (14, 12, 10))
    first, again = (method.sample(sources[0], np.random.default_rng(3)) for _ in range(2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    backbone = TinyBackbone()
    network = Network(backbone, method.build_heads(backbone))
    untrained = copy.deepcopy(network)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    rng = np.random.default_rng(0)
    for _ in range(120):
        batch = stack([method.sample(s, rng) for s in sources[:16]])
        optimiser.zero_grad()
        method.step(batch, network, None, torch.Generator()).losses["total"].backward()
        optimiser.step()
    items, found = [[s] for s in sources[16:]], []
    for _ in range(24):  # a draw of eight scans' views is off by 16 of 100
        batch = stack([method.sample(item[0], rng) for item in items])
        with torch.no_grad():
            seen = [method.observe(batch, n.eval(), None, items, 120) for n in (network, untrained)]
        found.append([one.scores["retrieval_accuracy"].value for one in seen])
    (trained, raw), score = np.mean(found, axis=0), seen[0].scores["retrieval_accuracy"]
    assert trained >= 3 * score.chance
    assert trained >= raw + 10, "more than an untrained network finds"
    seen[0].save(tmp_path / "o.obs")
    assert Observation.load(tmp_path / "o.obs").scores == seen[0].scores


def test_zoom_must_be_a_range():
    with pytest.raises(ConfigError, match="smallest, largest"):
        validate(SimClrConfig, {"zoom": (1.2, 0.7)})
