"""DINO: its losses against plain formulas, what receives gradient, and where its views lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import TinyBackbone, smooth_sources, stack
from torch import Tensor

from situs.errors import ConfigError
from situs.methods import build
from situs.methods.base import Network
from situs.methods.dino import DinoConfig, distillation, koleo
from situs.methods.dino.heads import DinoHeads
from situs.methods.dino.losses import balanced, update_center
from situs.methods.dino.views import draw_views
from situs.pretraining.teacher import make_teacher

SMALL = {
    "global_size": [16, 16, 16],
    "local_size": [8, 8, 8],
    "locals": 3,
    "prototypes": 24,
    "hidden": 16,
    "bottleneck": 8,
}


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_distillation_is_the_papers_formula() -> None:
    student, teacher, center = logits(5, 3, 7), logits(2, 3, 7, seed=1), logits(7, seed=2)
    terms = []
    for g in range(2):
        for v in range(5):
            for b in range(3):
                if v == g:
                    continue
                p = torch.softmax((teacher[g, b] - center) / 0.04, 0)
                q = torch.softmax(student[v, b] / 0.1, 0)
                terms.append(-(p * q.log()).sum())
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(distillation(student, teacher, center), expected)


def test_balanced_targets_are_sinkhorns_in_plain_numbers() -> None:
    teacher = logits(2, 3, 4)
    q = np.exp(teacher.numpy().reshape(6, 4) / 0.5)
    for _ in range(200):
        q = q / q.sum(0) * 6 / 4  # every prototype has an equal share of the six answers
        q = q / q.sum(1, keepdims=True)
    many = balanced(teacher, 0.5, iterations=200)
    np.testing.assert_allclose(many.numpy().reshape(6, 4), q, atol=1e-9)
    np.testing.assert_allclose(many.numpy().reshape(6, 4).sum(0), 1.5, atol=1e-6)
    few = balanced(teacher, 0.5)
    torch.testing.assert_close(few.sum(-1), torch.ones(2, 3, dtype=torch.float64))
    # What all answers share says nothing: a winner of all loses what it has over the others.
    shifted = teacher + torch.tensor([5.0, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(balanced(shifted, 0.5, 200), many)


def test_batch_normalisation_tells_samples_apart_that_hardly_differ() -> None:
    """Averages of normalised features differ by little; batch normalisation spreads them."""
    features = torch.ones(2, 6, 8) + 0.01 * torch.randn(2, 6, 8)
    spread = {}
    for norm in ("layer", "batch"):
        heads = DinoHeads(8, DinoConfig.model_validate({"head_norm": norm}))
        with torch.no_grad():
            unit = torch.nn.functional.normalize(heads.embed(features).flatten(0, 1), dim=-1)
        spread[norm] = float(1 - unit.mean(0).square().sum())
    assert spread["layer"] < 0.05
    assert spread["batch"] > 0.8


def test_the_teacher_gets_no_gradient_and_agreement_is_the_least_loss() -> None:
    teacher = logits(2, 3, 7).requires_grad_()
    student = (teacher.detach() * 0.1 / 0.04).requires_grad_()
    loss = distillation(student, teacher.flip(0), torch.zeros(7))
    loss.backward()
    assert teacher.grad is None
    # Where the student says what the teacher says, the cross entropy is the entropy.
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-12


def test_koleo_is_the_log_distance_to_the_nearest() -> None:
    x = logits(6, 4)
    unit = x / x.norm(dim=1, keepdim=True)
    distance = torch.cdist(unit, unit).fill_diagonal_(torch.inf).amin(1)
    torch.testing.assert_close(koleo(x), -distance.log().mean(), rtol=1e-6, atol=1e-6)
    assert koleo(torch.eye(4)) < koleo(torch.eye(4) + 1)  # spread is better than crowded


def test_views_are_spread_each_on_its_own() -> None:
    views = logits(2, 6, 4, seed=3)
    torch.testing.assert_close(koleo(views), (koleo(views[0]) + koleo(views[1])) / 2)
    assert torch.autograd.gradcheck(koleo, (views.requires_grad_(),))


def test_autocast_does_not_narrow_the_cross_entropy() -> None:
    student, teacher = logits(5, 3, 700).float(), logits(2, 3, 700, seed=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = distillation(student, teacher, torch.zeros(700))
    assert inside == distillation(student, teacher, torch.zeros(700))


def test_the_centre_is_a_running_mean() -> None:
    center, teacher = torch.ones(7), torch.randn(2, 3, 7)
    update_center(center, teacher, 0.9)
    torch.testing.assert_close(center, 0.9 + 0.1 * teacher.mean((0, 1)))


def test_a_step_trains_the_encoder_and_moves_the_centre() -> None:
    method, backbone = build("dino", SMALL), TinyBackbone()
    network = Network(backbone, method.build_heads(backbone))
    teacher = make_teacher(network)
    scans = smooth_sources(4, (24, 26, 28))
    batch = stack([method.sample(s, np.random.default_rng(i)) for i, s in enumerate(scans)])
    result = method.step(batch, network, teacher, torch.Generator())
    assert set(result.losses) == {"distillation", "koleo", "total"}
    result.losses["total"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.encoder.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    center = network.heads.get_buffer("center")
    assert center.abs().sum() > 0
    assert 1 <= result.scores["prototypes_used"].value <= 24
    kept = center.clone()
    network.eval()
    method.step(batch, network, teacher, torch.Generator())
    torch.testing.assert_close(center, kept)  # looking does not move it


def test_local_views_lie_about_the_first_global_one() -> None:
    (scan,) = smooth_sources(1, (60, 60, 60))
    config = DinoConfig.model_validate({**SMALL, "locals": 20})
    whole, parts, axis = draw_views(scan, config, np.random.default_rng(0))
    assert axis is None
    low = np.asarray(whole[0].start)
    high = low + whole[0].extent
    for part in parts:
        assert (part.centre_vox >= low - 1).all()
        assert (part.centre_vox <= high + 1).all()
    with pytest.raises(ConfigError, match="as many numbers"):
        build("dino", {**SMALL, "local_size": [8, 8]})
