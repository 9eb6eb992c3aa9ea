"""What every trainer shares."""

from __future__ import annotations

import copy
import csv
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from small_runs import finetuning, pretraining
from typer.testing import CliRunner

from situs.backbones import BackboneConfig, build
from situs.cli import app
from situs.training.engine import quick_layout


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU keeps the usual layout")
def test_the_quick_layout_changes_where_weights_lie_and_nothing_else():
    torch.manual_seed(0)
    usual = build(BackboneConfig(name="cnn", options={"channels": [4, 8]}))
    quick = copy.deepcopy(usual)
    held = [id(p) for p in quick.parameters()]
    quick_layout(quick)
    assert [id(p) for p in quick.parameters()] == held  # an optimiser made before still works
    weights = [m.weight for m in quick.modules() if isinstance(m, torch.nn.Conv3d)]
    assert all(w.is_contiguous(memory_format=torch.channels_last_3d) for w in weights)

    image = torch.randn(2, 1, 16, 16, 16)
    for backbone in (usual, quick):
        backbone(image).square().mean().backward()
    for (name, a), b in zip(usual.named_parameters(), quick.parameters(), strict=True):
        assert torch.equal(a, b), name
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_and_plain_trainings_are_one(tmp_path: Path):
    """Both verbs to their end, observations and reach with them; ``precision: 32`` from YAML."""
    for verb, write in (("pretrain", pretraining), ("finetune", finetuning)):
        (tmp_path / verb).mkdir()
        config = write(tmp_path / verb, steps=3, **_ONE[verb])
        losses = []
        for compiled in ("--no-compile", "--compile"):
            out = tmp_path / verb / compiled
            words = [verb, "--config", str(config), "--out", str(out), compiled, "--quiet"]
            ended = CliRunner().invoke(app, words + ["--no-report"] * (verb == "pretrain"))
            assert ended.exit_code == 0, (ended.output, ended.exception)
            with (out / "metrics.csv").open() as table:
                rows = [row["loss/total"] for row in csv.DictReader(table)]
            losses.append([float(loss) for loss in rows if loss])
        assert len(losses[0]) >= 2
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)
        assert yaml.safe_load((out / "config.yaml").read_text())["precision"] == "32"


_ONE = {
    "pretrain": {"devices": 1},
    "finetune": {"devices": 1, "validate_every": 3, "init": "none"},
}
