"""Arms that begin with weights of others, beside the same network with random ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from dino_names import Dino
from small_runs import forked_workers

import situs
from situs.config import validate
from situs.errors import ConfigError
from situs.studies.arms import Arm
from situs.studies.config import StudyConfig
from situs.weights import load_card
from situs.weights.foreign import import_weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported")
    torch.manual_seed(0)
    torch.save({"teacher": Dino(3, 1, 8, 2, 0).state_dict()}, folder / "file.pth")
    rules = {"spacing": (1.0, 1.0, 1.25), "crop": False}
    return import_weights(folder / "file.pth", folder / "public", preprocessing=rules).path


def study(imported: Path, **changes: object) -> dict[str, object]:
    return {
        "data": "d",
        "out": "o",
        "arms": [{"init": str(imported)}, {"like": str(imported)}],
        **changes,
    }


def test_public_weights_are_held_against_their_own_network(
    organs: Path, imported: Path, tmp_path: Path
) -> None:
    settings = {"labels": [2], "seeds": [0], "test": 2, "validation": 0, "processes": 1}
    settings |= {"finetune": {"steps": 1, "patch_size": [8, 8, 8]}, "bootstrap": 100}
    settings |= {"dataset": {"patient": r"(p\d+)_"}}
    data = {"data": str(organs), "out": str(tmp_path / "study")}
    with forked_workers():
        result = situs.study(study(imported, **data, **settings))
    logs = "\n".join(f.read_text() for f in tmp_path.glob("study/jobs/*/log.txt"))
    assert not result.failed, logs
    assert result.done == result.expected == 3  # the store, and a run an arm: nothing pretrained
    row = result.summary.set_index("arm").loc["public"]
    assert (row["method"], row["against"], row["against_scratch"]) == (
        "init",
        "none like public",
        True,
    )
    card = load_card(imported)
    for folder in result.runs["folder"]:
        run = tmp_path / "study" / "jobs" / folder / "run"
        config = json.loads((run.parent / "job.json").read_text())["config"]
        ledger = json.loads((run / "result.json").read_text()).get("ledger") or {}
        if "init" in config:
            encoder = [e for e in ledger["entries"] if e["part"] == "encoder"]
            assert {e["status"] for e in encoder} == {"loaded"}
            continue
        assert config["backbone"] == card.backbone.model_dump(mode="json")
        assert config["preprocessing"] == card.preprocessing


def test_an_arm_begins_in_one_way(imported: Path, tmp_path: Path) -> None:
    for wrong in ({"method": "mae"}, {"like": str(imported)}):
        with pytest.raises(ConfigError, match="an arm begins in one way"):
            validate(Arm, {"init": str(imported), **wrong})
    with pytest.raises(ConfigError, match="is that of its card"):
        validate(Arm, {"init": str(imported), "backbone": {"spatial_dims": 2}})
    whole = validate(StudyConfig, study(imported))
    other = {"name": "cnn", "method": "none"}
    alone = validate(StudyConfig, study(imported, arms=[{"init": str(imported)}, other]))
    assert whole.reference_of(whole.arms[0]) == whole.arms[1]
    assert alone.reference_of(alone.arms[0]) is None
