"""A batch that gave no finite loss is kept, and taken again it says where that began."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import labelled
from torch import nn
from typer.testing import CliRunner

from situs.cli import app
from situs.cli.replay import told_of
from situs.errors import NonFiniteLoss, RunError
from situs.pretraining.pretrain import pretrain
from situs.store.store import StoredScan
from situs.training.offending import Found, load_offending, replay
from situs.transfer import finetune
from situs.transfer.cases import PreparedCase

pytestmark = pytest.mark.slow

BACKBONE = {"name": "cnn", "options": {"channels": [4, 8]}}
METHODS: dict[str, dict[str, Any]] = {
    "spatial": {"view_size": [12, 12, 8], "chunk_size": [4, 4, 4], "width": 8},
    "s2dc": {"crop_size": [8, 8, 8], "queue_size": 12, "global_crops": 2, "hidden": 8},
}
METHODS["spatial+s2dc"] = dict(METHODS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled(tmp_path_factory.mktemp("data"), classes=1)


def pretraining(data: Path, out: Path, method: str = "spatial", **changes: Any) -> dict[str, Any]:
    fixed = {"steps": 4, "batch_size": 2, "workers": 0, "threads": 1, "observe_every": 0}
    named = {"method": method, "options": METHODS[method], "backbone": BACKBONE}
    return {"data": data / "images", "out": out, **fixed, **named, **changes}


def replayed(folder: Path) -> tuple[dict[str, Any], str]:
    told = CliRunner().invoke(app, ["replay", str(folder)])
    assert told.exit_code == 0, told.output
    return json.loads(
        CliRunner().invoke(app, ["replay", str(folder), "--json"]).stdout
    ), told.stdout


@pytest.mark.parametrize("method", ["spatial", "s2dc", "spatial+s2dc"])
@pytest.mark.parametrize("later", [False, True])
def test_a_poisoned_scan_of_a_pretraining_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, later: bool
) -> None:
    """Looked at in every step, and later as on a GPU."""
    read = StoredScan.read

    def poisoned(self: StoredScan, *args: Any) -> Any:
        voxels = read(self, *args)
        return voxels * np.float32(np.nan) if "c3" in self.record.source else voxels

    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(StoredScan, "read", poisoned)
        patched.setattr("situs.pretraining.module.looks_later", lambda *_: later)
        with pytest.raises(NonFiniteLoss, match=f"c3.*situs replay {out}"):
            pretrain(pretraining(data, out, method), quiet=True)
    found, told = replayed(out)
    assert found["term"] == found["found"][0]["term"]
    (first,) = found["found"]
    assert "the batch's" in first["tensor"]
    assert [Path(scan).name for scan in first["scans"]] == ["c3.nii.gz"]
    assert "Look at" in told
    assert "c3.nii.gz" in told


def test_weights_that_grew_too_large_are_no_fault_of_a_scan(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(NonFiniteLoss):
        pretrain(pretraining(data, out, optimiser={"lr": 1e30, "warmup_steps": 0}), quiet=True)
    assert load_offending(out)["step"] > 0
    found, told = replayed(out)
    (first,) = found["found"]
    assert (first["term"], first["scans"]) == (found["term"], [])
    # The average grew as they did, and looks first.
    assert first["tensor"].startswith("the output of teacher.")
    assert "No single scan gives it" in told


@pytest.mark.parametrize("value", [1e3, 1e25])
def test_what_only_the_precision_of_the_run_makes_infinite(value: float) -> None:
    """1e6 is a number in float32 and infinite in float16; the square of 1e25 is neither."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 1e3)
    kept = {
        "precision": "16-mixed",
        "batch": {"x": torch.tensor([[1.0], [value], [1.0]])},
        "scans": [["a"], ["b"], ["c"]],
        "state": network.state_dict(),
    }

    def step(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        square = network(batch["x"]).float().square().mean()
        return {"square": square, "total": square}

    exact, own = replay(kept, network, step)
    assert own == Found("float16", "square", "the output of the network (Linear)", ("b",))
    if value < 1e10:
        assert exact == Found("float32", None)
        assert "Only float16 gives it" in told_of([exact, own])
    else:
        assert exact == Found("float32", "square", None, ("b",))
        assert "Look at b" in told_of([exact, own])


def test_a_poisoned_case_of_a_fine_tuning_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = PreparedCase.image

    def poisoned(self: PreparedCase) -> Any:
        voxels = image.fget(self)  # type: ignore[attr-defined]
        return voxels * np.float32(np.nan) if self.name == "c3" else voxels

    out = tmp_path / "out"
    config = {
        "data": data,
        "out": out,
        "train": ["c2", "c3", "c4"],
        "validation": ["c0"],
        "test": ["c1"],
        "steps": 4,
        "patch_size": [16, 16, 8],
        "threads": 1,
        "backbone": BACKBONE,
    }
    with monkeypatch.context() as patched:
        patched.setattr(PreparedCase, "image", property(poisoned))
        with pytest.raises(NonFiniteLoss, match=f"c3.*situs replay {out}"):
            finetune(config, quiet=True)
    found, told = replayed(out)
    (first,) = found["found"]
    assert (first["tensor"], first["scans"]) == ("the batch's image", ["c3"])
    assert "Look at c3" in told
    again = finetune({**config, "overwrite": True}, quiet=True)
    assert not (again.folder / "offending").exists()


def test_nothing_to_replay_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no batch to replay"):
        load_offending(tmp_path)
    (tmp_path / "offending").mkdir()
    (tmp_path / "offending" / "step-0000001.pt").write_bytes(b"cut")
    told = CliRunner().invoke(app, ["replay", str(tmp_path)])
    assert told.exit_code != 0
