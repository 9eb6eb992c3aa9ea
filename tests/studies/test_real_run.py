"""One true study, small in everything: real pretraining, real fine-tuning, real worker."""

from __future__ import annotations

import json
import time

import nibabel as nib
import numpy as np
import pytest
import yaml
from small_runs import finished, forked, forked_workers

import situs
from situs.errors import ConfigError, NonFiniteLoss, RunError
from situs.store import Preprocessing, Store
from situs.studies import describe
from situs.studies.cost import Cost, package_energy
from situs.studies.graph import JobGraph
from situs.studies.jobs import JobResult
from situs.studies.worker import Worker
from situs.training.run import Run, write_json

CODE = """
from torch import nn
from situs.backbones import AdaptedBackbone
from situs.methods.mae import Mae

class Masked(Mae):
    name = "masked"

class Net(AdaptedBackbone):
    @staticmethod
    def make(spatial_dims, in_channels):
        return nn.Sequential(nn.Conv3d(in_channels, 4, 3, padding=1), nn.ReLU())
"""


@pytest.mark.slow
def test_a_true_study_from_scans_to_page_with_code_of_its_own(organs, tmp_path, monkeypatch):
    # Method and network are nobody's package: the workers find them in the working folder.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_code.py").write_text(CODE)
    study = {
        "data": str(organs),
        "out": str(tmp_path / "study"),
        "dataset": {"patient": r"(p\d+)_"},
        "arms": [
            "none",
            {
                "method": "my_code:Masked",
                "name": "mae",
                "options": {"view_size": [8, 8, 8], "block_size": [4, 4, 4]},
            },
        ],
        "labels": [2],
        "seeds": [0],
        "test": 3,
        "validation": 2,
        "backbone": {"name": "my_code:Net"},
        "pretrain": {"steps": 2, "batch_size": 2, "observe_samples": 4, "workers": 0},
        "finetune": {"steps": 2, "patch_size": [8, 8, 8]},
        "processes": 1,
        "bootstrap": 100,
    }
    result = situs.study(study)
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
    assert own["method"] == "masked"
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
    assert situs.study(settings).done == 4


def _archive(path, rng):
    """Scans with a bright ball (1) or a bright box (0), as MedMNIST keeps them."""
    grid = np.stack(np.meshgrid(*[np.arange(12)] * 3, indexing="ij"))
    arrays = {}
    for split, count in (("train", 10), ("val", 2), ("test", 4)):
        classes = np.arange(count) % 2
        centres = rng.uniform(4, 7, (count, 3, 1, 1, 1))
        order = np.where(classes, 2.0, np.inf)
        radius = [
            np.linalg.norm((grid - c).reshape(3, -1), o, 0)
            for c, o in zip(centres, order, strict=True)
        ]
        shapes = np.stack(radius).reshape(count, 12, 12, 12) < 3
        images = 60 + 100 * shapes + rng.normal(0, 10, shapes.shape)
        arrays[f"{split}_images"] = images.astype(np.uint8)
        arrays[f"{split}_labels"] = classes[:, None]
    np.savez_compressed(path, **arrays)


@pytest.mark.slow
def test_a_true_study_of_classes_kept_in_one_archive(tmp_path):
    _archive(tmp_path / "shapes.npz", np.random.default_rng(0))
    study = {
        "data": str(tmp_path / "shapes.npz"),
        "out": str(tmp_path / "study"),
        "task": "classification",
        "arms": ["none", {"method": "simclr", "options": {"view_size": [8, 8, 8]}}],
        "labels": [4],
        "seeds": [0],
        "test": "given",
        "validation": 0,
        "backbone": {"options": {"channels": [4, 8]}},
        "pretrain": {"steps": 2, "batch_size": 2, "observe_samples": 4, "workers": 0},
        "finetune": {"steps": 2, "patch_size": [8, 8, 8]},
        "processes": 1,
        "bootstrap": 100,
    }
    with forked_workers():
        result = situs.study(study)
    logs = "\n".join(f.read_text() for f in tmp_path.glob("study/jobs/*/log.txt"))
    assert not result.failed, logs
    assert result.summary["cases"].tolist() == [4, 4]
    assert result.summary["mean"].between(0, 1).all()
    # Every scan that is not tested was written out once, and pretrained on.
    files = sorted(path.name for path in (tmp_path / "study" / "unpacked").iterdir())
    assert len(files) == 12
    assert not any(case.split(".")[0] in name for case in result.cases["case"] for name in files)
    (store,) = tmp_path.glob("study/jobs/store-*/result.json")
    assert json.loads(store.read_text())["scans"] == 12


@pytest.mark.parametrize("metric", ["balanced_accuracy", "auc", "correct"])
def test_a_rate_at_which_classes_diverge_is_out(tmp_path, metric):
    _archive(tmp_path / "shapes.npz", np.random.default_rng(0))
    study = {
        "data": str(tmp_path / "shapes.npz"),
        "out": str(tmp_path / "study"),
        "task": "classification",
        "metric": metric,
        "arms": ["none"],
        "labels": [4],
        "test": "given",
        "validation": 2,
        "tune": {"lr": [0.001, 0.1]},
    }
    graph, _ = describe(study)
    said = [
        {"case": c, "true": str(i), "predicted": str(i), "p(0)": f"{1 - i}", "p(1)": f"{i}"}
        for i, c in enumerate("ab")
    ]

    def results(job):
        if job.kind != "tune":
            return JobResult(rules={}) if job.kind == "store" else None
        return JobResult(cases=said if job.about["lr"] == 0.1 else ())

    known = JobGraph(graph.study, graph.cases, results, graph.folder)
    assert {job.config["lr"] for job, *_ in known.runs()} == {0.1}
    # One case is of one class: whoever always says that class would be the best.
    with pytest.raises(ConfigError, match="1 validation cases are all of one class"):
        describe(study | {"validation": 1})
    describe(study | {"validation": 1, "tune": {}})


def test_energy_is_the_sum_of_the_packages(tmp_path):
    for name, value in (("intel-rapl:0", 5), ("intel-rapl:1", 7), ("intel-rapl:0:0", 100)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
    assert package_energy(tmp_path) == 12
    assert package_energy(tmp_path / "nowhere") is None


def test_cost_of_a_resumed_job_counts_what_was_spent_before(tmp_path):
    spent = {"seconds": 100.0, "cpu_seconds": 50.0, "peak_memory_mib": 10**6}
    (tmp_path / "cost.json").write_text(json.dumps({**spent, "energy_kj": None}))
    anew, resumed = (Cost(tmp_path / "cost.json", again).read() for again in (False, True))
    assert anew["seconds"] < 50
    assert 100 <= resumed["seconds"] < 150
    assert resumed["cpu_seconds"] >= 50
    assert resumed["peak_memory_mib"] == 10**6
    assert resumed["energy_kj"] is None


def test_a_job_that_fails_stops_its_clock_and_goes_on_from_there(tmp_path, monkeypatch):
    """One worker does many jobs; what it does after a failure is no cost of the failed one."""
    monkeypatch.setattr("situs.studies.cost._EVERY_SECONDS", 0.02)
    worker = Worker()

    def fail(config, out):
        (out / "begun.json").parent.mkdir(exist_ok=True)
        (out / "begun.json").write_text("{}")
        time.sleep(0.2)
        raise RunError("the disk is full")

    job = {"kind": "finetune", "title": "t", "key": "k", "about": {}, "config": {}}
    write_json(tmp_path / "job.json", job)
    monkeypatch.setattr(worker, "_finetune", fail)
    with pytest.raises(RunError):
        worker.carry_out(tmp_path)
    spent = json.loads((tmp_path / "cost.json").read_text())
    assert spent["seconds"] >= 0.2, "to the end, not to the last beat"
    time.sleep(0.2)
    assert json.loads((tmp_path / "cost.json").read_text()) == spent
    monkeypatch.setattr(worker, "_finetune", lambda *_: {"run": "run"})
    result = worker.carry_out(tmp_path)
    assert result["seconds"] >= round(spent["seconds"], 3), "both legs of a fine-tuning"
    assert json.loads((tmp_path / "cost.json").read_text())["seconds"] >= spent["seconds"]


@pytest.mark.slow
def test_cost_counts_time_and_memory_from_its_own_start(tmp_path):
    # In a process of its own: what other tests leave behind is given back to the system meanwhile.
    code = """
from situs.studies.cost import Cost
block = b"x" * 80_000_000
del block
cost = Cost()
before = cost.read()
kept = bytearray(b"x" * 60_000_000)
after = cost.read()
assert 0 <= before["seconds"] <= after["seconds"]
assert after["peak_memory_mib"] >= before["peak_memory_mib"] + 40, (before, after)
assert kept
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    finished(forked(script), 0)


def test_channels_of_one_image_are_scans_of_their_own_in_the_store(tmp_path):
    rng = np.random.default_rng(0)
    array = rng.random((12, 14, 10, 2)).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "two.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    paths = [str(tmp_path / name) for name in ("two.nii.gz", "broken.nii.gz")]
    rules = Preprocessing().model_dump(mode="json")
    given = {"paths": paths, "rules": rules, "compression": "zstd"}
    found = Worker()._store(given, tmp_path / "store")
    assert found["scans"] == 2
    assert {s.modality for s in Store.open(tmp_path / "store")} == {"unknown"}
    Worker()._store({**given, "modality": "CT"}, tmp_path / "told")
    assert {s.modality for s in Store.open(tmp_path / "told")} == {"CT"}, "as in fine-tuning"
    (refusal,) = found["refusals"]
    assert refusal.startswith("broken.nii.gz: ")


def test_a_trial_that_diverges_is_a_result(tmp_path, monkeypatch):
    def diverge(*_):
        raise NonFiniteLoss("total", ["a"], 7)

    worker = Worker()
    monkeypatch.setattr(worker, "_finetune", diverge)
    job = {"kind": "tune", "title": "t", "key": "k", "about": {}, "config": {}}
    write_json(tmp_path / "job.json", job)
    assert worker.carry_out(tmp_path)["diverged"]
    assert json.loads((tmp_path / "result.json").read_text())["cases"] == []


def test_a_pretraining_that_diverges_is_a_result_and_so_is_what_would_begin_with_it(
    tmp_path, monkeypatch
):
    def diverge(*_, **__):
        raise NonFiniteLoss("total", ["a"], 7)

    monkeypatch.setattr("situs.studies.worker.pretrain", diverge)
    worker = Worker()
    start, job = tmp_path / "jobs" / "pretrain-mae-1", tmp_path / "jobs" / "tune-mae-2"
    said = {"title": "t", "key": "k", "about": {}}
    start.mkdir(parents=True)
    job.mkdir()
    write_json(start / "job.json", {**said, "kind": "pretrain", "config": {"method": "mae"}})
    assert worker.carry_out(start)["diverged"]
    kept = json.loads((start / "result.json").read_text())
    assert (kept["diverged"], kept["scores"]) == (True, {})
    config = {"init": str((start / "run").resolve())}  # which somebody has deleted
    write_json(job / "job.json", {**said, "kind": "tune", "config": config})
    assert worker.carry_out(job)["diverged"], "without a fine-tuning, for which this lacks all"
