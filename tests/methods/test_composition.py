"""Sums of methods: names, weights, and learned weights that stay bounded."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny import TinyBackbone, smooth_sources
from torch import Tensor
from torch.utils.data import default_collate

from situs.backbones import build
from situs.backbones.base import BackboneConfig
from situs.errors import ConfigError
from situs.methods.base import Network, StepResult
from situs.methods.composition import Composition, balance, compose
from situs.pretraining.config import PretrainConfig
from situs.pretraining.data import ViewDataset
from situs.pretraining.module import Pretraining
from situs.pretraining.teacher import make_teacher
from situs.views import ArraySource

OPTIONS = {
    "spatial": {"view_size": (8, 8, 8), "chunk_size": (4, 4, 4), "width": 8, "chunk_width": 8},
    "mae": {"view_size": (8, 8, 8), "block_size": (4, 4, 4)},
}


def _step(
    weights: dict[str, float] | None = None, uncertainty: bool = False
) -> tuple[Composition, Network, StepResult]:
    """One step of ``spatial+mae`` from the same weights on the same batch each time."""
    torch.manual_seed(0)
    sources = smooth_sources(3, (12, 12, 12))
    composition = compose("spatial+mae", OPTIONS, weights, uncertainty).resolve_for_data(sources)
    backbone = TinyBackbone()
    network = Network(backbone, composition.build_heads(backbone))
    batch = default_collate(
        [composition.sample([s], np.random.default_rng(i)) for i, s in enumerate(sources)]
    )
    teacher = make_teacher(network)
    result = composition.step(batch, network, teacher, torch.Generator().manual_seed(0))
    return composition, network, result


def test_terms_stand_under_their_parts_name_and_add_up_with_the_weights():
    composition, _, result = _step({"mae": 0.25})
    assert composition.name == "spatial+mae"
    assert {"spatial/gap_axis", "spatial/total", "mae/reconstruction", "mae/total"} <= set(
        result.losses
    )
    assert set(result.scores) == {"spatial/gap_error"}
    expected = result.losses["spatial/total"] + 0.25 * result.losses["mae/total"]
    torch.testing.assert_close(result.losses["total"], expected)


def test_a_single_method_keeps_plain_names():
    composition = compose("mae", OPTIONS["mae"])
    backbone = TinyBackbone()
    network = Network(backbone, composition.build_heads(backbone))
    batch = default_collate(
        [composition.sample(smooth_sources(1, (9,) * 3), np.random.default_rng(0))]
    )
    losses = composition.step(batch, network, None, torch.Generator()).losses
    assert set(losses) == {"reconstruction", "total"}
    assert losses["total"] == losses["reconstruction"]


def test_learned_weights_start_near_one_and_receive_gradient():
    _, _, plain = _step({"mae": 0.5})
    composition, network, result = _step({"mae": 0.5}, uncertainty=True)
    torch.testing.assert_close(result.losses["mae/total"], plain.losses["mae/total"])
    expected = sum(
        composition.weights[name]
        * ((result.losses[f"{name}/total"] - part.lower_bound) / 1.01 + math.log(1.01))
        for name, part in composition.parts.items()
    )
    torch.testing.assert_close(result.losses["total"], expected)
    assert result.scores["mae/learned_weight"].value == pytest.approx(1 / 1.01)
    result.losses["total"].backward()
    learned = network.heads.get_submodule("uncertainty")
    assert all(parameter.grad != 0 for parameter in learned.parameters())


def _descend(excess: float, steps: int) -> tuple[Tensor, Tensor]:
    """The learned parameter and the balanced loss where gradient descent ends."""
    learned = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.Adam([learned], 0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = balance(torch.tensor(excess), learned)
        loss.backward()
        optimiser.step()
    return learned.detach(), loss.detach()


@pytest.mark.parametrize("excess", [0.05, 1.0, 40.0])
def test_the_optimal_variance_is_the_loss_itself_whatever_its_scale(excess):
    learned, loss = _descend(excess, 1500)
    assert torch.exp(learned) + 0.01 == pytest.approx(excess, rel=0.02)
    assert loss == pytest.approx(1 + math.log(excess), abs=1e-3)


@pytest.mark.parametrize("excess", [0.0, -0.02, -3.0])
def test_a_solved_or_negative_loss_has_a_bounded_weight_and_a_bounded_value(excess):
    learned, loss = _descend(excess, 1500)
    assert 1 / (torch.exp(learned) + 0.01) <= 100
    assert loss >= excess / 0.01 + math.log(0.01) - 1e-4
    # Not stuck: a loss that is there again takes the weight back.
    again = learned.clone().requires_grad_()
    balance(torch.tensor(1.0), again).backward()
    assert again.grad < 0


def test_lower_bounds_are_reached_and_not_passed():
    spatial = compose("spatial", {"weights": {"chunk_adjacent": 0.3, "chunk_distant": 0.2}})
    assert spatial.parts["spatial"].lower_bound == pytest.approx(-0.5)
    assert compose("mae").parts["mae"].lower_bound == 0
    composition, _, result = _step()
    for name, part in composition.parts.items():
        assert result.losses[f"{name}/total"] > part.lower_bound


@pytest.mark.parametrize(
    ("expression", "options", "weights", "message"),
    [
        ("mae+mae", {}, {}, "names a method twice"),
        ("mae+spacial", {}, {}, "did you mean 'spatial'"),
        ("mae+sal", {}, {}, "must share a dimension"),
        ("mae+voco", {"simclr": {}}, {}, "options for .'simclr'."),
        ("mae+voco", {}, {"simclr": 1.0}, "weights for .'simclr'."),
        ("mae+voco", {}, {"mae": 0.0}, "finite and positive"),
        ("mae+voco", {}, {"mae": math.nan}, "finite and positive"),
    ],
)
def test_what_cannot_be_added_is_refused(expression, options, weights, message):
    with pytest.raises(ConfigError, match=message):
        compose(expression, options, weights)


def _study(number: int) -> list[ArraySource]:
    """Scans of one study that differ in spacing and, by 1000 each, in brightness."""
    rng = np.random.default_rng(number)
    scans = []
    for i in range(3):
        array = rng.normal(size=(1, 20, 20, 20)).astype(np.float32) + 1000 * (i + 1)
        affine = np.diag([1.0 + i, 1, 1, 1])
        scans.append(ArraySource(array, affine, f"scan-{number}-{i}", study=str(number)))
    return scans


def test_scans_of_a_study_are_called_by_their_own_names(tmp_path):
    grid = {"size": (16, 16), "spacing_mm": 1.0, "intensity": None}
    options = {
        "planes": {**grid, "slices": 2, "studies": "virtual"},
        "sal": {**grid, "pairs": 1},
    }
    composition = compose("planes+sal", options)
    items = [_study(number) for number in range(4)]
    backbone = build(BackboneConfig(name="cnn", spatial_dims=2, options={"channels": [4, 8]}))
    dataset = ViewDataset(items, composition, seed=0)
    batch = default_collate([dataset[number] for number in range(4)])
    network = Network(backbone, composition.build_heads(backbone)).eval()
    drawn = [items[i] for i in batch["item"].tolist()]
    with torch.no_grad():
        seen = composition.observe(batch["views"], network, None, drawn, 0)

    names = {}
    for name, images in (("planes", "images"), ("sal", "slices")):
        brightness = batch["views"][name][images].flatten(1).amax(1).tolist()
        scans = [item[round(b / 1000) - 1] for item, b in zip(drawn, brightness, strict=True)]
        names[name] = tuple(scan.key for scan in scans)
        assert seen[name].scans == names[name]
        assert seen[name].spacings == tuple(scan.spacing for scan in scans)
    assert names["planes"] != names["sal"]
    for panel in seen["planes"].sections[0].panels:
        assert panel.volume.name in panel.title
        np.testing.assert_allclose(panel.volume.array.mean(), panel.image.max(), rtol=0.1)

    config = PretrainConfig(method="planes+sal", data=tmp_path, out=tmp_path, options=options)
    module = Pretraining(config, composition, backbone, items, items)
    assert set(module._scans(batch)) == {*names["planes"], *names["sal"]}
