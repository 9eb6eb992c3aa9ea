"""One true study, small in everything: real pretraining, real fine-tuning, real worker."""

from __future__ import annotations

import json

import pytest
import yaml

from situs.study import run_study
from situs.study.cost import Cost, package_energy
from situs.training.run import Run


@pytest.mark.slow
def test_a_true_study_from_scans_to_page(organs, tmp_path):
    study = {
        "data": str(organs),
        "out": str(tmp_path / "study"),
        "patient": r"(p\d+)_",
        "arms": [
            "none",
            {"method": "mae", "options": {"view_size": [8, 8, 8], "block_size": [4, 4, 4]}},
        ],
        "labels": [2],
        "seeds": [0],
        "test": 3,
        "validation": 2,
        "backbone": {"options": {"channels": [4, 8]}},
        "pretrain": {"steps": 2, "batch_size": 2, "observe_samples": 4, "workers": 0},
        "finetune": {"steps": 2, "patch_size": [8, 8, 8]},
        "processes": 1,
        "bootstrap": 100,
    }
    result = run_study(study)
    logs = "\n".join(f.read_text() for f in tmp_path.glob("study/jobs/*/log.txt"))
    assert not result.failed, logs
    assert result.done == result.expected == 4
    jobs = {
        f.parent.name.split("-")[0]: f.parent for f in tmp_path.glob("study/jobs/*/result.json")
    }

    # Every number can be traced: the table's score is the mean of the run's own cases.csv.
    row = result.runs[result.runs["arm"] == "mae"].iloc[0]
    folder = tmp_path / "study" / "jobs" / row["folder"]
    own = json.loads((folder / "run" / "result.json").read_text())
    assert own["scores"]["dice"] == pytest.approx(row["score"], abs=1e-6)
    assert own["method"] == "mae"
    assert set(own["split"]["test"]) == set(result.cases["case"])

    pretrained = Run.open(jobs["pretrain"] / "run")
    assert pretrained.status == "finished"
    tested = {name.split("_")[0] for name in own["split"]["test"]}
    seen = {
        r["key"].split("_")[0]
        for r in json.loads((pretrained.path / "data.json").read_text())["records"]
    }
    assert not tested & seen
    assert "reconstruction_r2" in result.pretrainings.iloc[0]["scores"]
    for kind in ("pretrain", "finetune"):
        cost = json.loads((jobs[kind] / "result.json").read_text())
        assert cost["seconds"] > 0
        assert cost["peak_memory_mib"] > 50
    settings = yaml.safe_load((tmp_path / "study" / "study.yaml").read_text())
    assert settings["labels"] == [2]
    assert run_study(settings).done == 4


def test_energy_is_the_sum_of_the_packages(tmp_path):
    for name, value in (("intel-rapl:0", 5), ("intel-rapl:1", 7), ("intel-rapl:0:0", 100)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
    assert package_energy(tmp_path) == 12
    assert package_energy(tmp_path / "nowhere") is None


def test_cost_counts_time_and_memory_from_its_own_start():
    block = b"x" * 80_000_000
    del block
    cost = Cost()
    before = cost.read()
    kept = bytearray(b"x" * 60_000_000)
    after = cost.read()
    assert 0 <= before["seconds"] <= after["seconds"]
    assert after["peak_memory_mib"] >= before["peak_memory_mib"] + 40
    assert kept
