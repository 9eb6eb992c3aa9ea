"""Presets: what a name stands for, what comes before it, and heads that are the authors'."""

from __future__ import annotations

import pytest
import torch
from tiny import TinyBackbone
from torch.nn import functional as F

from situs.config import load_config
from situs.errors import ConfigError
from situs.methods import build
from situs.methods.s2dc.config import S2dcConfig
from situs.pretraining.config import PretrainConfig
from situs.pretraining.teacher import TeacherConfig

PLACES = ["data=store", "out=run"]


def test_what_is_given_comes_before_the_preset_at_every_depth() -> None:
    motion = {"rotation_deg": 5.0}
    config = build("s2dc", {"preset": "slab", "grid": (2, 2, 1), "motion": motion}).config
    assert isinstance(config, S2dcConfig)
    assert (config.grid, config.crop_size) == ((2, 2, 1), (16, 16, 16))
    assert (config.motion.plane, config.motion.rotation_deg) == ("axial", 5)
    # A resolved configuration, as a run folder keeps it, reads back to itself.
    assert build("s2dc", config.model_dump(mode="json")).config == config


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'released'"):
        build("voco", {"preset": "relased"})
    with pytest.raises(ConfigError, match="no presets"):
        build("mae", {"preset": "reference"})


def test_a_preset_reaches_the_run_around_it_through_yaml_and_command_line() -> None:
    run = load_config(PretrainConfig, {}, [*PLACES, "method=voco", "options.preset=released"])
    assert run.teacher.momentum == 0.9
    assert (run.batch_size, run.optimiser.lr, run.optimiser.warmup_steps) == (2, 1e-4, 5000)
    own = load_config(PretrainConfig, run.model_dump(mode="json"), ["teacher.momentum=0.99"])
    assert (own.teacher.momentum, own.optimiser) == (0.99, run.optimiser)
    # Parts of a sum share one run, so that none of them decides over it.
    options = {"voco": {"preset": "released"}}
    both = load_config(PretrainConfig, {"method": "voco+mae", "options": options}, PLACES)
    assert both.teacher == TeacherConfig()


def test_vocos_released_head_is_the_authors() -> None:
    """Linear, batch normalisation without weights, ReLU, twice; then linear (voco_head.py)."""
    method, backbone = (
        build("voco", {"preset": "released", "hidden": 12, "width": 5}),
        TinyBackbone(),
    )
    head = method.heads(backbone).eval()
    x = torch.randn(7, sum(backbone.channels))
    first, second, last = (p for p in head.modules() if isinstance(p, torch.nn.Linear))
    out = x
    for linear in (first, second):
        out = linear(out)
        out = (out - out.mean(0)) / (out.var(0, unbiased=False) + 1e-5).sqrt()
        out = out.clamp_min(0)
    out = F.linear(out, last.weight, last.bias)
    torch.testing.assert_close(head(x), out, rtol=1e-4, atol=1e-5)
    assert [tuple(p.shape) for p in head.parameters()][2:] == [(12, 12), (12,), (5, 12), (5,)]
