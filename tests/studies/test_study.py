"""Planning, scheduling, resuming and reporting, with a worker that answers from a formula."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import sys
import time
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from forks import Forked
from small_runs import forked, wait_until
from typer.testing import CliRunner

import situs
from situs.cli import app
from situs.config import validate
from situs.errors import ConfigError, RunError, SitusError
from situs.locks import holding
from situs.report.study.wording import (
    best_rows,
    counted,
    decisions,
    ended,
    findings,
    labelled,
    uncompared,
    unstable,
)
from situs.studies import StudyConfig, describe
from situs.studies.checks import check_settings
from situs.studies.graph import JobGraph
from situs.studies.jobs import Job, JobFolders, JobResult
from situs.studies.results import lost_classes
from situs.studies.run import carry_out
from situs.studies.scheduler import Scheduler
from situs.studies.splits import split_cases
from situs.studies.submit import FOLDER, submit
from situs.studies.summary import decided, summarise

TWINS = (("fast", 1.0), ("slow", 0.5))
HERE = Path(__file__).parent
FAKE = (sys.executable, str(HERE.parent / "support" / "fake_worker.py"))


def config(organs: Path, out: Path, **changes) -> dict:
    return {
        "name": "<b>organs</b>",
        "data": str(organs),
        "out": str(out),
        "dataset": {"patient": r"(p\d+)_"},
        "arms": ["none", "mae", {"name": "both", "method": "mae+simclr"}],
        "labels": [2, 4],
        "seeds": [0, 1],
        "test": 8,
        "validation": 4,
        "backbone": {"options": {"channels": [4, 8]}},
        "pretrain": {"steps": 2},
        "finetune": {"steps": 2},
        "tune": {"lr": [0.001, 0.01, 0.1], "labels": [4]},
        "processes": 2,
        "bootstrap": 200,
        **changes,
    }


def order(out: Path) -> list[str]:
    return (out / "jobs" / "order.txt").read_text().splitlines()


@pytest.fixture(scope="module")
def finished(organs, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    events = []
    study = config(organs, out)
    result = situs.study(
        study, worker=FAKE, report=lambda e, done, all_: events.append((e, done, all_))
    )
    return study, result, events


def test_every_job_is_done_once_and_after_what_it_needs(finished):
    study, result, events = finished
    done = order(Path(study["out"]))
    # 1 store, 2 pretrainings, 3 arms × 3 rates, 3 arms × 2 counts × 2 seeds.
    assert len(done) == len(set(done)) == result.done == result.expected == 1 + 2 + 9 + 12
    assert done[0] == "store store"
    for arm in ("mae", "both"):
        first = done.index(f"pretrain {arm} seed0")
        assert all(first < i for i, d in enumerate(done) if f" {arm} " in d and i != first)
    assert max(total for *_, total in events) == 24
    assert not result.failed
    row = result.summary.iloc[0]
    told = f"; Dice: {row['arm']} {row['labels']} labels {row['mean']:.3f}, "
    assert repr(result).startswith(f"StudyResult('{result.study.name}', 24 of 24 jobs{told}")
    assert "\n" not in repr(result)


def test_a_second_call_runs_nothing_and_a_new_seed_only_what_is_new(finished, organs, tmp_path):
    study, result, _ = finished
    out = tmp_path / "moved"
    shutil.copytree(study["out"], out)
    (out / "jobs" / "order.txt").write_text("")
    again = situs.study({**study, "out": str(out), "finetune": {"steps": 2}}, worker=FAKE)
    assert order(out) == []
    pd.testing.assert_frame_equal(again.summary, result.summary)
    situs.study({**study, "out": str(out), "seeds": [0, 1, 2]}, worker=FAKE)
    assert len(order(out)) == 6
    assert all("finetune" in line and "seed2" in line for line in order(out))


def test_other_settings_are_other_runs(finished):
    study, *_ = finished
    graph, folders = describe({**study, "finetune": {"steps": 3}})
    kinds = [job.kind for job in graph.jobs() if folders.result(job) is None]
    assert set(kinds) == {"tune"}, "pretraining is kept, fine-tuning waits for tuning"
    graph, folders = describe({**study, "pretrain": {"steps": 3}})
    missing = [job.title for job in graph.jobs() if folders.result(job) is None]
    assert not any(title.startswith("none") for title in missing), "scratch is kept"
    graph, folders = describe({**study, "threads": 2, "processes": 1})
    assert all(folders.result(job) for job in graph.jobs())


def test_each_arm_gets_the_rate_that_was_best_on_validation(finished):
    study, result, _ = finished
    assert set(result.runs["lr"]) == {0.01}
    assert set(result.tuning["lr"]) == {0.001, 0.01, 0.1}
    graph, _ = describe(study)
    split = graph.cases.split
    for job in graph.jobs():
        if job.kind == "tune":
            assert job.config["test"] == list(split.validation)
        if job.kind == "finetune":
            assert job.config["test"] == list(split.test)
            assert set(job.config["train"]) <= set(split.train)
            assert job.config["preprocessing" if "init" not in job.config else "init"]
            # A job's name knows of no defaults: an option more must not make it another.
            assert job.config["dataset"] == study["dataset"]


def test_arms_may_take_the_rate_of_their_scratch_arm(finished):
    study, *_ = finished
    graph, folders = describe({**study, "tune": {**study["tune"], "arms": "scratch"}})
    tuned = {job.about["arm"] for job in graph.jobs() if job.kind == "tune"}
    assert tuned == {"none"}
    assert graph.expected() == len(graph.jobs()) == 1 + 2 + 3 + 12
    assert all(folders.result(job) for job in graph.jobs())


def test_an_arm_that_names_its_rate_keeps_it(organs, tmp_path):
    weak = {"name": "weak", "method": "none", "finetune": {"lr": 0.0001}}
    study = config(organs, tmp_path, arms=["none", weak])
    result = situs.study(study, worker=FAKE)
    assert result.done == result.expected
    assert set(result.tuning["arm"]) == {"none"}
    rates = result.runs.groupby("arm")["lr"].agg(set)
    assert rates["weak"] == {0.0001}
    assert rates["none"] == {0.01}


def test_a_rate_must_be_good_for_every_tuning_seed(finished):
    study, *_ = finished
    tune = {**study["tune"], "seeds": [0, 7]}
    graph, _ = describe({**study, "tune": tune, "pretrain_per_seed": True})
    jobs = graph.jobs()
    assert {j.about["seed"] for j in jobs if j.kind == "pretrain"} == {0, 1, 7}
    assert graph.expected() == 1 + 2 * 3 + 3 * 3 * 2 + 12
    dice = {(0.001, 0): 0.9, (0.001, 7): 0.1, (0.01, 0): 0.7, (0.01, 7): 0.7}

    def results(job):
        if job.kind != "tune":
            return JobResult(rules={}) if job.kind == "store" else None
        score = dice.get((job.about["lr"], job.about["seed"]), 0.2)
        return JobResult(cases=({"case": "a", "presence": "both", "dice": str(score)},))

    known = JobGraph(graph.study, graph.cases, results, graph.folder)
    assert {job.config["lr"] for job, *_ in known.runs()} == {0.01}


def test_runs_that_lost_a_class_are_told(finished):
    _, result, _ = finished
    assert unstable(result) == []
    rows = [
        {"case": c, "name": n, "presence": p, "dice": d}
        for c in "ab"
        for n, p, d in (
            ("head", "missed", "0.0"),
            ("tail", "both", "0.8"),
            ("rare", "absent", "nan"),
        )
    ]
    assert lost_classes(rows) == ["head"]
    assert lost_classes([{"case": "a", "true": "x", "predicted": "y"}]) == []
    runs = result.runs.assign(lost=["head" if a == "mae" else "" for a in result.runs["arm"]])
    (sentence,) = unstable(replace(result, runs=runs))
    assert sentence.startswith(
        "4 of 12 runs never found at least one class (mean Dice below 0.05): head in 4; by arm: "
        "mae 4 of 4. Their fine-tuning did not converge, so"
    )
    assert "Raise finetune.steps" in sentence
    several = [
        "tail, head" if s and a == "mae" else "tail"
        for a, s in zip(runs["arm"], runs["seed"], strict=True)
    ]
    runs = result.runs.assign(lost=several, loss_first=2.0, loss_last=1.5)
    (sentence,) = unstable(replace(result, runs=runs))
    assert "): tail in 12, head in 2; by arm: none 4 of 4, mae 4 of 4, both 4 of 4." in sentence
    assert " (their loss was still 75 % of what it began with; medians), so" in sentence
    runs = runs.assign(lost=["tail" if a == "mae" else "" for a in runs["arm"]])
    runs["loss_last"] = [1.5 if lost else 0.4 for lost in runs["lost"]]
    (sentence,) = unstable(replace(result, runs=runs))
    assert "still 75 % of what it began with, in the others 20 %; medians)" in sentence
    row = summarise(result.study, result.cases, runs, pd.DataFrame()).iloc[2]
    assert row[["arm", "lost", "lost_classes"]].tolist() == ["mae", 2, "tail"]
    assert ended(row) == "2, 2 never found tail"
    assert ended({**row, "lost_classes": "2, tail"}) == "2, 2 never found class 2, tail"


def test_no_tested_patient_is_pretrained_on(finished):
    study, *_ = finished
    graph, _ = describe(study)
    tested = {name.split("_")[0] for name in graph.cases.split.test}
    assert len(tested) == 4, "whole patients"
    assert not any(p.name.split("_")[0] in tested for p in graph.cases.unlabelled)
    assert len(graph.cases.unlabelled) == 30 - len(graph.cases.split.test)


def test_the_table_says_what_the_formula_put_in(finished):
    _, result, _ = finished
    table = result.summary.set_index(["arm", "labels"])
    assert table.loc[("mae", 2), "gain"] == pytest.approx(0.1)
    assert table.loc[("mae", 2), "gain_low"] == pytest.approx(0.1)
    assert (table["low"] <= table["mean"]).all()
    assert (table["mean"] <= table["high"]).all()
    step = table.loc[("none", 4), "mean"] - table.loc[("none", 2), "mean"]
    assert step == pytest.approx(0.05 * (2 - np.sqrt(2)), abs=1e-6)
    assert table.loc[("both", 4), "scratch_labels_is"] == "≥"
    p = result.summary["p"].dropna()
    assert len(p) == 4
    assert (result.summary["p_holm"].dropna() >= p).all()
    assert result.runs["folder"].is_unique
    assert len(result.cases) == 12 * 8


def test_the_page_opens_by_itself_and_shows_hostile_names_as_text(finished):
    study, result, _ = finished
    page = result.page.read_text()
    assert "<b>organs</b>" not in page
    assert "&lt;b&gt;organs&lt;/b&gt;" in page
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=[^>]*//", page)
    assert page.count('role="img"') == 2
    assert str(Path(study["out"]).parent) not in page
    assert f"out: {Path(study['out']).name}" in page
    assert "With 2 labels the best method" in page
    for folder in re.findall(r'href="jobs/([^/"]+)/', page):
        assert (Path(study["out"]) / "jobs" / folder).is_dir()


def test_markdown_has_a_row_an_arm_and_label_count(finished):
    study, *_ = finished
    lines = (Path(study["out"]) / "summary.md").read_text().splitlines()
    assert len(lines) == 2 + 6
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| none | 2 | 2 | 0.")
    assert "| +10.0 | +10.0 to +10.0 |" in lines[4]


def test_a_failed_job_stops_only_what_builds_on_it(organs, tmp_path, monkeypatch):
    study = config(organs, tmp_path, tune={}, seeds=[0], finetune={"steps": 2, "lr": 0.01})
    monkeypatch.setenv("FAKE_FAIL", "pretrain mae")
    monkeypatch.setenv("FAKE_DIE", "finetune both 2 labels")
    result = situs.study(study, worker=FAKE)
    assert {name.split("-")[0] for name in result.failed} == {"pretrain", "finetune"}
    assert set(result.runs["arm"]) == {"none", "both"}
    assert "jobs are still to be done" in result.page.read_text()
    # A report of later tells them as well.
    again = situs.study(study, only_report=True)
    assert set(again.failed) == set(result.failed)
    assert all(f"jobs/{name}/log.txt" in again.page.read_text() for name in result.failed)
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    told = CliRunner().invoke(app, ["study", str(tmp_path / "study.yaml"), "--only-report"])
    assert told.exit_code == 1
    words = "".join(told.output.split())
    assert "2jobsfailed,andthenextcalltriesthemagain.Why:" in words
    assert all(str(tmp_path / "jobs" / name / "log.txt") in words for name in result.failed)
    monkeypatch.delenv("FAKE_FAIL")
    monkeypatch.delenv("FAKE_DIE")
    before = order(tmp_path)
    healed = situs.study(study, worker=FAKE)
    assert not healed.failed
    assert healed.done == healed.expected
    assert len(order(tmp_path)) == len(before) + 4
    assert not situs.study(study, only_report=True).failed
    told = CliRunner().invoke(app, ["study", str(tmp_path / "study.yaml"), "--only-report"])
    assert told.exit_code == 0
    assert "tries them again" not in told.output


def test_a_failed_job_is_told_though_a_full_disk_takes_no_note_of_it(tmp_path, monkeypatch):
    folders, job = JobFolders(tmp_path), Job("tune", "a", {}, {})

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folders.write(job)
    monkeypatch.setattr(Path, "touch", full)
    folders.note_failed(job)
    assert folders.failed([job]) == [job.name]
    folders.write(job)
    assert folders.failed([job]) == []


def test_a_kill_in_the_middle_loses_only_the_running_job(organs, tmp_path):
    study = config(organs, tmp_path, processes=1, tune={}, finetune={"steps": 2, "lr": 0.01})

    def stop(event, done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        situs.study(study, worker=FAKE, report=stop)
    assert len(order(tmp_path)) in (5, 6)
    result = situs.study(study, worker=FAKE)
    assert result.done == result.expected == len(set(order(tmp_path)))


def joined(study: Path, **environment: str) -> Forked:
    """Another process on a study, in a process group of its own, as on another machine."""
    script = study.with_name("joined.py")
    script.write_text(
        "import sys; from situs.studies.run import carry_out; "
        "carry_out(sys.argv[1], join=True, worker=sys.argv[2:])"
    )
    return forked(script, study, *FAKE, children=1, **environment)


@pytest.mark.slow
def test_two_processes_carry_out_one_study_and_one_takes_over_what_the_other_left(
    organs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    small = {"arms": ["none", "mae"], "labels": [2], "processes": 1}
    values = config(organs, out, tune={}, finetune={"steps": 2, "lr": 0.01}, **small)
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(values))
    begun = out / "jobs" / "begun.txt"
    first, second = (joined(file, FAKE_SECONDS="1", FAKE_CLAIM="1") for _ in range(2))
    end = time.monotonic() + 600
    while time.monotonic() < end and not (
        begun.is_file() and len({line.split()[0] for line in begun.read_text().splitlines()}) == 2
    ):
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)  # with its workers, in the midst of their jobs
    _, said = second.communicate()
    assert second.returncode == 0, said
    assert first.wait() == -signal.SIGKILL
    result = situs.study(values, only_report=True)
    assert result.done == result.expected
    finished = order(out)
    assert len(finished) == len(set(finished)), "no job was done twice"
    starts = [line.partition(" ")[2] for line in begun.read_text().splitlines()]
    again = len(starts) - len(set(starts))
    assert again <= 2, "only what the dead one was at was begun again"
    assert not list(out.glob("jobs/*/.lock"))
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**values, "seeds": [5]}))
    with pytest.raises(ConfigError, match=r"other settings \(seeds\)"):
        situs.study(other, join=True, worker=FAKE)


@pytest.mark.slow
def test_submitted_jobs_join_the_study(organs: Path, tmp_path: Path) -> None:
    submitit = pytest.importorskip("submitit")
    out = tmp_path / "study"
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(config(organs, out, arms=["none"], tune={}, seeds=[0])))
    with pytest.raises(ConfigError, match="--slurm must look like name=value, got 'fast'"):
        submit(file, 1, parameters=["fast"])
    overrides = ["finetune.steps=1"]
    situs.study(file, overrides=overrides, worker=FAKE)  # so that nothing but joining is left to do
    (job,) = submit(file, 1, overrides=overrides, parameters=["timeout_min=9"], cluster="local")
    begun = submitit.LocalJob(folder=out / FOLDER, job_id=job)
    wait_until(begun.paths.result_pickle.exists)  # submitit itself gives up after 15 seconds
    said = begun.result()
    assert str(out / "index.html") in said.replace("\n", "")


def test_two_studies_do_not_share_a_folder_at_a_time(organs, tmp_path):
    with holding(tmp_path, "situs study"), pytest.raises(RunError, match="in use by process"):
        situs.study(config(organs, tmp_path), worker=FAKE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ["none", "mea"]}, "did you mean 'mae'"),
        (
            {"arms": [{"method": "mae", "options": {"mask_ration": 0.5}}]},
            r"arm 'mae'[\s\S]*mask_ration",
        ),
        ({"finetune": {"stepz": 3}}, "did you mean 'steps'"),
        ({"finetune": {"seed": 3}}, "belong to the study"),
        ({"arms": ["none", "none"]}, "names of their own"),
        ({"validation": 0}, "needs validation cases"),
        ({"finetune": {"patience": 3}}, "belong to the study"),
        ({"tune": {"lr": [0.1, 0.2], "labels": [50]}}, "50 labelled cases were asked for"),
        ({"labels": []}, "name each number once"),
        ({"labels": [2, 400]}, "400 labelled cases were asked for, but only 18"),
        ({"metric": "Dice"}, "none of segmentation: dice"),
        ({"finetune": {"patch_size": [9, 8, 8]}}, r"arm 'none': patch_size: .*usable size"),
        (
            {
                "arms": [
                    "none",
                    {"method": "mae", "options": {"view_size": [9, 9, 9], "block_size": [3, 3, 3]}},
                ]
            },
            r"arm 'mae': view_size: .*usable size",
        ),
        ({"arms": ["none", {"method": "mae", "against": "mae"}]}, "no other arm"),
    ],
)
def test_wrong_settings_are_told_before_anything_runs(organs, tmp_path, changes, message):
    with pytest.raises(SitusError, match=message):
        describe(config(organs, tmp_path, **changes))
    assert not (tmp_path / "jobs").exists()


def test_two_dimensional_arms_are_tested_against_two_dimensional_scratch(organs, tmp_path):
    flat = {"name": "flat", "backbone": {"spatial_dims": 2}}
    study = StudyConfig.model_validate(
        config(organs, tmp_path, arms=["none", flat, {"name": "m", "method": "mae"}])
    )
    none, flat_arm, mae = study.arms
    assert study.scratch_of(mae) is none
    assert study.scratch_of(none) is None
    assert study.backbone_of(flat_arm).spatial_dims == 2
    named = study.model_copy(
        update={"arms": (none, flat_arm, mae.model_copy(update={"against": "flat"}))}
    )
    assert named.scratch_of(named.arms[2]) is flat_arm


def test_command_line_describes_and_reports(finished, tmp_path):
    study, *_ = finished
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps(study))
    runner = CliRunner()
    told = runner.invoke(app, ["study", str(file), "--dry-run", "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.output)["done"] == 24
    told = runner.invoke(app, ["study", str(file), "--only-report", "--json"])
    assert told.exit_code == 0, told.output
    strictly = json.loads(told.output, parse_constant=pytest.fail)
    assert len(strictly["summary"]) == 6


def test_only_arms_with_a_pretrained_encoder_may_freeze_it():
    frozen = {"method": "mae", "finetune": {"freeze_encoder": True}}
    study = config(Path("organs"), Path("out"), arms=["none", frozen])
    check_settings(validate(StudyConfig, study))
    scratch = {"name": "still", "method": "none", "finetune": {"freeze_encoder": True}}
    study["arms"] = ["none", scratch]
    with pytest.raises(ConfigError, match=r"(?s)still.*freeze random weights"):
        check_settings(validate(StudyConfig, study))


def test_an_arm_runs_with_its_own_label_counts_only(organs, tmp_path):
    study = config(organs, tmp_path, arms=["none", {"method": "mae", "labels": [2]}])
    result = situs.study(study, worker=FAKE)
    points = result.summary.groupby("arm")["labels"].apply(list).to_dict()
    assert points == {"none": [2, 4], "mae": [2]}
    graph, _ = describe(study)
    assert graph.expected() == len(graph.jobs()) == len(order(tmp_path))
    study["arms"][1]["labels"] = [3]
    with pytest.raises(ConfigError, match="not in the study's labels"):
        validate(StudyConfig, study)


def test_arms_that_differ_in_their_fine_tuning_share_the_pretraining(organs, tmp_path):
    twins = [{"name": n, "method": "mae", "finetune": {"layer_decay": d}} for n, d in TWINS]
    study = config(organs, tmp_path, arms=["none", *twins])
    graph, folders = describe(study)
    one, other = (graph.pretraining(arm, 0) for arm in graph.study.arms[1:])
    assert one.key == other.key
    assert folders.folder(one) == folders.folder(other)
    result = situs.study(study, worker=FAKE)
    assert sum(title.startswith("pretrain") for title in order(tmp_path)) == 1
    assert result.done == result.expected
    assert result.pretrainings["arm"].tolist() == ["fast and slow"]
    costs = result.summary.set_index("arm")["pretrain_seconds"]
    assert costs.loc[["fast", "slow"]].eq(1.0).all()
    for file in (tmp_path / "jobs").glob("finetune-*/job.json"):
        init = json.loads(file.read_text())["config"].get("init")
        assert init is None or Path(init).parent.is_dir()


@pytest.mark.parametrize(
    ("arms", "asked", "expected"),
    [
        (["none", "mae"], {}, None),
        (["none", "mae", "spatial"], {}, []),
        (["none", "spatial"], {"flip_axes": "auto", "noise": 0.0}, []),
        (["none", "spatial"], {"flip_axes": [0]}, [0]),
    ],
)
def test_no_arm_flips_where_one_of_them_learned_position(organs, tmp_path, arms, asked, expected):
    finetune = {"augmentation": asked} if asked else {}
    short = {"labels": [2], "seeds": [0], "tune": {}}
    situs.study(config(organs, tmp_path, arms=arms, finetune=finetune, **short), worker=FAKE)
    files = list((tmp_path / "jobs").glob("finetune-*/job.json"))
    assert len(files) == len(arms)
    for file in files:
        said = json.loads(file.read_text())["config"].get("augmentation") or {}
        assert said.get("flip_axes") == expected
        assert said.get("noise") == asked.get("noise")


def test_distances_are_better_when_smaller(organs, tmp_path):
    result = situs.study(config(organs, tmp_path, metric="hd95_mm"), worker=FAKE)
    assert result.runs["lr"].eq(0.01).all(), "the rate with the smallest distance"
    table = result.summary.set_index(["arm", "labels"])
    assert table.loc[("mae", 2), "gain"] == pytest.approx(1.0), "smaller by 1 mm"
    assert table.loc[("mae", 2), "mean"] < table.loc[("none", 2), "mean"]
    assert table.loc[("mae", 2), "scratch_labels_is"] == "≥"
    assert " +1.0 mm (" in findings(result)[0]


def test_any_arm_may_be_the_reference_and_the_best_is_held_against_the_rest(organs, tmp_path):
    both = {"name": "both", "method": "mae+simclr", "against": "mae"}
    result = situs.study(config(organs, tmp_path / "a", arms=["none", "mae", both]), worker=FAKE)
    table = result.summary.set_index(["arm", "labels"])
    assert table.loc[("both", 2), "against"] == "mae"
    assert table.loc[("both", 2), "gain"] == pytest.approx(0.0)
    assert result.rivals.empty, "nothing else has the same reference"
    both.pop("against")
    result = situs.study(config(organs, tmp_path / "a", arms=["none", "mae", both]), worker=FAKE)
    assert result.rivals[["labels", "against"]].values.tolist() == [[2, "both"], [4, "both"]]
    assert result.rivals["gain"].abs().max() < 1e-9
    assert "The best beside the other methods" in result.page.read_text()


def named_after(study: dict, **how) -> int:
    return carry_out(study, **how)[0].named_after


def test_what_is_named_beforehand_counts_in_its_order_and_the_rest_is_corrected(organs, tmp_path):
    decides = [{"arm": "mae", "labels": 2}, {"arm": "both", "against": "mae", "labels": 2}]
    study = config(organs, tmp_path, decides=[*decides, {"arm": "mae", "labels": 4}])
    result = situs.study(study, worker=FAKE)
    shown, equal, late = (sentence for sentence, _ in decisions(result))
    assert shown.startswith("Named beforehand: mae against none with 2 labels: +")
    assert shown.endswith("shown to be better.")
    assert equal.endswith("the difference may be chance.")
    assert late.endswith("it counts for nothing, since what was named before it was not shown.")
    assert (tmp_path / "decided.csv").read_text().count("\n") == 4
    # Named again after a look, the same comparison is told as that.
    result = situs.study({**study, "decides": decides[:1]}, only_report=True)
    ((told, _),) = decisions(result)
    assert told.startswith("Named when 12 results were there: mae against none with 2 labels: +")
    assert told.endswith("shows nothing by itself.")
    assert escape(told) in result.page.read_text()
    p, holm = (
        result.summary.set_index(["arm", "labels"]).loc[("mae", 2), c] for c in ("p", "p_holm")
    )
    assert holm > p, "corrected with the rest"
    # Who only reports names nothing. Another metric, an arm of that name that is another, and
    # other steps or seeds are other comparisons, whose results were looked at before.
    assert named_after(study, worker=FAKE) == 0
    arms = [{"name": "none"}, {"name": "mae", "method": "mae", "finetune": {"l2_sp": 1}}]
    for change in (
        {"metric": "hd95_mm"},
        {"arms": [*arms, *study["arms"][2:]]},
        {"finetune": {"steps": 3}},
        {"seeds": [0, 1, 2]},
        {"tune": {"lr": [0.001, 0.01], "labels": [4]}},
    ):
        assert named_after({**study, **change}, only_report=True) == 12, change
    # Neither are other names, other arms, another count of labels, nor how jobs are carried out.
    again = json.loads(json.dumps(study).replace('"mae"', '"masked"'))
    again["arms"] = ["none", {"name": "masked", "method": "mae"}, study["arms"][2], "simclr"]
    again |= {"labels": [2, 4, 5], "pretrain": {"steps": 2, "workers": 0}, "processes": 1}
    assert named_after(again, only_report=True) == 0
    # Files of before say nothing of settings.
    kept = json.loads((tmp_path / "decides.json").read_text())
    assert kept.pop("identities")
    (tmp_path / "decides.json").write_text(json.dumps(kept))
    assert named_after(study, only_report=True) == 0
    assert named_after({**study, "decides": decides[:1]}, only_report=True) == 12
    # A study of other settings cannot join, nor unsay what was named.
    with pytest.raises(ConfigError, match="other settings"):
        situs.study({**study, "decides": decides[:1]}, worker=FAKE, join=True)
    assert named_after(study, only_report=True) == 0
    with pytest.raises(ConfigError, match=r"'decides' names 'mae' with 3 labels"):
        describe({**study, "decides": [{"arm": "mae", "labels": 3}]})
    few = [{"name": "none", "labels": [4]}, *study["arms"][1:]]
    with pytest.raises(ConfigError, match=r"'decides' names 'none' with 2 labels"):
        describe({**study, "arms": few})
    with pytest.raises(ConfigError, match=r"'decides' compares 'none' with nothing"):
        describe({**study, "decides": [{"arm": "none", "labels": 2}]})


def test_a_sequence_ends_for_good_where_one_of_it_is_not_shown(organs, tmp_path):
    rng = np.random.default_rng(0)
    arms = {"none": 0.0, "weak": 0.01, "mae": 0.3, "simclr": 0.2, "voco": 0.1}
    cases = pd.DataFrame(
        {"arm": arm, "labels": n, "seed": s, "case": f"c{c}", "score": 0.4 + gain + noise}
        for arm, gain in arms.items()
        for n in (2, 4)
        for s in range(4)
        for c, noise in enumerate(rng.normal(0, 0.05, 8))
    )
    listed = [{"name": arm, "method": "mae" if arm == "weak" else arm} for arm in arms]
    named = [("mae", 2), ("weak", 4), ("mae", 4)]
    decides = [{"arm": arm, "labels": n} for arm, n in named]
    asked = config(organs, tmp_path, arms=listed, decides=decides, seeds=[0, 1, 2, 3])
    study = validate(StudyConfig, asked)
    runs = (
        cases[["arm", "labels", "seed"]]
        .drop_duplicates()
        .assign(
            **dict.fromkeys(("diverged", "no_rate", "untried"), False),
            **{"lost": "", "lr": 0.1, "seconds": 1.0, "peak_memory_mib": 1, "start": ""},
        )
    )
    table = decided(study, cases, runs)
    assert (table["p"] < 0.05).tolist() == [True, False, True]
    assert table["p_sequence"].tolist() == table["p"].cummax().tolist()
    summary = summarise(study, cases, runs, pd.DataFrame()).dropna(subset=["p"])
    rows = summary.set_index(["arm", "labels"])
    assert rows.loc[named, "p_holm"].tolist() == table["p_sequence"].tolist()
    early = decided(
        study,
        *(rows[(rows["seed"] == 0) | (rows["arm"] != "weak")] for rows in (cases, runs)),
    )
    assert early["p"].notna().all()
    assert early["p_sequence"].isna().tolist() == [False, True, True], (
        "before the last run is there"
    )
    rest = rows.drop(named)
    # Holm: the smallest of m times m, and so on, never falling.
    order = rest["p"].sort_values()
    expected = (order * np.arange(len(order), 0, -1)).clip(upper=1).cummax()
    assert rest["p_holm"].to_dict() == pytest.approx(expected.to_dict())


def test_how_a_store_is_compressed_changes_no_job(organs, tmp_path):
    """So that studies from before there was a choice go on."""
    asked = config(organs, tmp_path / "out")
    (one, _), (other, _) = (
        describe(asked | {"preprocessing": chosen}) for chosen in ({}, {"compression": "none"})
    )
    assert [job.key for job in one.jobs()] == [job.key for job in other.jobs()]
    assert other.store.config["compression"] == "none"
    rules = one.study.preprocessing.model_dump(mode="json", exclude={"compression"})
    before = {"paths": one.store.config["paths"], "rules": rules}
    assert Job("store", "store", before, one.store.identity).key == one.store.key


def test_workers_are_dealt_one_gpu_each(tmp_path):
    scheduler = Scheduler(JobFolders(tmp_path), 3, worker=["env"], gpus=("0", "1"))
    seen = [scheduler._hire().communicate()[0] for _ in range(3)]
    found = [re.search(r"CUDA_VISIBLE_DEVICES=(.*)", text)[1] for text in seen]
    assert found == ["0", "1", "0"]


def test_a_report_before_anything_is_finished_says_so(organs, tmp_path):
    result = situs.study(config(organs, tmp_path), only_report=True)
    assert (result.done, result.expected) == (0, 24)
    assert result.page.is_file()
    assert "24 of 24 jobs are still to be done" in findings(result)[0]


def test_a_rate_that_diverges_is_out_and_the_arm_goes_on(finished):
    study, *_ = finished
    graph, _ = describe(study)

    def results(job):
        if job.kind != "tune":
            return JobResult(rules={}) if job.kind == "store" else None
        diverged = job.about["lr"] == 0.1
        return JobResult(
            cases=() if diverged else ({"case": "a", "presence": "both", "dice": "0.1"},)
        )

    known = JobGraph(graph.study, graph.cases, results, graph.folder)
    assert {job.config["lr"] for job, *_ in known.runs()} == {0.001}, "of equals the smallest"


def test_an_arm_of_which_a_run_diverged_is_told_and_not_tested(organs, tmp_path, monkeypatch):
    """Survivors look too good: both here are 10 points ahead, and shown to be in a whole study."""
    decides = [{"arm": "mae", "labels": 2}, {"arm": "both", "labels": 2}]
    study = config(organs, tmp_path, decides=decides, tune={}, seeds=[0, 1, 2])
    gone = "finetune mae 2 labels seed1;finetune both 4 labels"
    monkeypatch.setenv("FAKE_DIVERGE", gone)
    result = situs.study(study, worker=FAKE)
    assert not result.failed
    assert result.done == result.expected, "that a rate is too high is a result"
    rows = result.summary.set_index(["arm", "labels"])
    assert rows.loc[("mae", 2), ["runs", "diverged"]].tolist() == [2, 1]
    assert rows.loc[("both", 4), ["runs", "diverged"]].tolist() == [0, 3]
    assert rows.loc[("mae", 2), "gain"] == pytest.approx(0.1), "of those that ended"
    assert rows.loc[[("mae", 2), ("both", 4)], "p_holm"].isna().all()
    first, second = decisions(result)
    assert first[0].endswith("not tested: runs diverged (1 of mae) and those left are a selection.")
    assert second[0].endswith("not tested: this or what was named before it lacks runs that ended.")
    assert {first[1], second[1]} == {""}
    assert [best["arm"] for best in best_rows(result)] == ["both", "mae"]
    assert pd.isna(rows.loc[("mae", 2), "scratch_labels"])
    told = unstable(result)
    assert told[0].startswith("1 of 3 runs of mae with 2 labels diverged")
    assert told[1].startswith("3 of 3 runs of both with 4 labels diverged")
    table = (tmp_path / "summary.md").read_text()
    assert table.count("| 2 of 3, 1 diverged |") == table.count("| 0 of 3, 3 diverged |") == 1
    page = result.page.read_text()
    assert all(escape(sentence) in page for sentence in (first[0], *told))
    assert "2\u00a0of\u00a03,\u00a0\u200b1\u00a0diverged" in page
    # A report, or another call, says the same, and a rate of its own makes other runs.
    again = situs.study(study, only_report=True)
    assert unstable(again) == told
    assert again.done == again.expected
    monkeypatch.delenv("FAKE_DIVERGE")
    lower = situs.study({**study, "finetune": {"steps": 2, "lr": 0.001}}, worker=FAKE)
    assert unstable(lower) == []
    assert lower.summary["p"].notna().sum() == 4


def test_rates_that_all_diverge_are_told_in_one_sentence(organs, tmp_path, monkeypatch):
    study = config(organs, tmp_path, arms=["none", "mae"])
    monkeypatch.setenv("FAKE_DIVERGE", "mae 4 labels lr")
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    result = situs.study(study, worker=FAKE)
    (sentence,) = unstable(result)
    assert sentence == (
        "Every rate of tune.lr (0.001, 0.01, 0.1) diverged in a trial of mae with 2 labels, mae "
        "with 4 labels. The smallest, 0.001, was taken all the same: give lower rates in tune.lr."
    )
    assert result.summary["no_rate"].tolist() == [False, False, True, True]
    assert result.tuning.groupby("arm")["diverged"].sum().to_dict() == {"none": 0, "mae": 3}
    page = result.page.read_text()
    assert escape(sentence) in page
    assert page.count("0.001\u00a0(all\u00a0diverged)") == 2
    told = CliRunner().invoke(app, ["study", str(tmp_path / "study.yaml"), "--only-report"])
    assert sentence in " ".join(told.output.split()), told.output


def test_a_pretraining_that_diverges_is_told_as_the_runs_that_were_to_begin_with_it(
    organs, tmp_path, monkeypatch
):
    tune = {"lr": [0.001, 0.01], "labels": [4], "seeds": [0, 1]}
    seeds = {"seeds": [0, 1, 2], "pretrain_per_seed": True}
    study = config(organs, tmp_path / "one", arms=["none", "mae"], tune=tune, **seeds)
    monkeypatch.setenv("FAKE_DIVERGE", "pretrain mae seed1;finetune mae 4 labels seed0")
    result = situs.study(study, worker=FAKE)
    assert not result.failed
    assert result.done == result.expected
    rows = result.summary.set_index(["arm", "labels"])
    assert rows.loc[("mae", 2), ["runs", "diverged"]].tolist() == [2, 1]
    assert rows.loc[("mae", 4), ["runs", "diverged"]].tolist() == [1, 2]
    assert rows.loc[[("mae", 2), ("mae", 4)], "p_holm"].isna().all()
    assert set(result.runs["lr"]) == {0.01}, "by the trials that began"
    assert not result.summary["no_rate"].any()
    lost, early, both = unstable(result)
    assert lost.startswith("1 of 3 pretrainings of mae diverged: a loss term or the gradient")
    assert "mae with 2 labels diverged: the loss of their pretraining became infinite" in early
    assert "finetune.lr" not in early
    assert "mae with 4 labels diverged: their loss or that of their pretraining became" in both
    assert "finetune.lr" in both
    page = result.page.read_text()
    assert all(escape(sentence) in page for sentence in (lost, early, both))
    assert "<b>mae</b>: diverged" in page
    gone = result.pretrainings.query("diverged")["folder"].item()
    assert f"{gone}/run" not in page, "there is no report"
    count = len(order(tmp_path / "one"))
    assert unstable(situs.study(study, worker=FAKE)) == [lost, early, both]
    assert len(order(tmp_path / "one")) == count, "no call does it again"
    # Where those of all trials are lost, none tells which rate to take, and none was too high.
    monkeypatch.setenv("FAKE_DIVERGE", "pretrain mae seed0;pretrain mae seed1")
    result = situs.study({**study, "out": str(tmp_path / "two")}, worker=FAKE)
    assert result.summary["untried"].tolist() == [False, False, True, True]
    assert not result.summary["no_rate"].any()
    told, *_ = unstable(result)
    assert told == (
        "No rate of tune.lr was tried for mae with 2 labels, mae with 4 labels: the pretrainings "
        "that the trials were to begin with diverged. The smallest, 0.001, was taken."
    )
    assert result.page.read_text().count("0.001\u00a0(untried)") == 2
    monkeypatch.setenv("FAKE_DIVERGE", "pretrain mae")
    result = situs.study({**study, "out": str(tmp_path / "all")}, worker=FAKE)
    assert result.summary.set_index(["arm", "labels"])["diverged"].tolist() == [0, 0, 3, 3]
    assert any(told.startswith("3 of 3 pretrainings of mae diverged") for told in unstable(result))
    assert "tune.lr was tried" not in " ".join(unstable(result))
    assert "Every rate" not in " ".join(unstable(result))


def test_folds_are_one_study_in_which_no_case_is_tested_twice(organs, tmp_path):
    single = config(organs, tmp_path, arms=["none", "mae"], decides=[{"arm": "mae", "labels": 2}])
    situs.study(single, worker=FAKE)
    kept = set(order(tmp_path))
    study = {**single, "folds": 3}
    graph, folders = describe(study)
    first, second, third = (fold.cases for fold in graph.folds)
    assert [len(c.split.test) for c in (first, second, third)] == [8, 8, 8]
    assert len({n for c in (first, second, third) for n in c.split.test}) == 24
    for cases in (first, second, third):
        split = cases.split
        tested = {name.split("_")[0] for name in split.test}
        others = {name.split("_")[0] for name in (*split.validation, *split.train)}
        assert not tested & others
        assert not tested & {path.name.split("_")[0] for path in cases.unlabelled}
        assert sorted((*split.test, *split.validation, *split.train)) == sorted(
            fact.name for fact in cases.facts
        )
    # The first fold is the study of one: what it has done is kept. Nothing is decided by it alone.
    done = [job for job in graph.jobs() if folders.result(job) is not None]
    assert len(done) == len(kept) == 1 + 1 + 6 + 8
    assert {fold.store.key for fold in graph.folds} >= {done[0].key}
    early = situs.study(study, only_report=True)
    assert (early.done, early.expected) == (16, 48)
    assert early.decided["p"].notna().all()
    assert early.decided["p_sequence"].isna().all()
    result = situs.study(study, worker=FAKE)
    assert result.done == result.expected == len(order(tmp_path)) == 48
    assert len(set(order(tmp_path))) == 48, "each fold says which it is"
    rows = result.summary.set_index(["arm", "labels"])
    assert rows.loc[("mae", 2), ["runs", "cases", "unscored"]].tolist() == [6, 24, 0]
    mean = result.cases.query("arm == 'mae' and labels == 2")["score"].mean()
    assert rows.loc[("mae", 2), "mean"] == pytest.approx(mean)
    assert rows.loc[("mae", 2), "gain"] == pytest.approx(0.1)
    assert "fold" in result.runs
    assert result.pretrainings["fold"].tolist() == [0, 1, 2]
    page = result.page.read_text()
    assert "24 test cases in 3 folds" in page
    assert "3 folds, no case tested in two" in page
    assert "1,\u00a0fold\u00a02" in page
    split = json.loads((tmp_path / "split.json").read_text())
    assert [len(fold["test"]) for fold in split["folds"]] == [8, 8, 8]
    again = situs.study(study, worker=FAKE)
    assert len(order(tmp_path)) == 48
    pd.testing.assert_frame_equal(again.summary, result.summary)
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    told = CliRunner().invoke(app, ["study", str(tmp_path / "study.yaml"), "--dry-run"])
    assert "24 test cases in 3 folds; in the first, 4 validation" in told.output, told.output


def test_folds_beyond_the_cases_are_refused(organs, tmp_path):
    facts = describe(config(organs, tmp_path))[0].cases.facts
    last = split_cases(facts, 8, 4, 0, fold=3)
    assert len(last.test) == 6, "what is left"
    assert len(last.validation) == 4
    with pytest.raises(SitusError, match=r"cannot give test \(8 in each of 5 folds\)"):
        split_cases(facts, 8, 4, 0, fold=4)
    with pytest.raises(ConfigError, match="are one fold"):
        validate(StudyConfig, config(organs, tmp_path, test="given", folds=2))


def test_an_arm_without_a_reference_is_told(organs, tmp_path):
    flat = {"name": "flat", "method": "none", "backbone": {"spatial_dims": 2}}
    study = validate(StudyConfig, config(organs, tmp_path, arms=[flat, "mae"]))
    (sentence,) = uncompared(study)
    assert sentence.startswith("mae is compared with nothing")
    assert "spatial_dims: 3" in sentence
    assert uncompared(validate(StudyConfig, config(organs, tmp_path))) == []


def test_labels_are_saved_from_scratch_whatever_an_arm_is_tested_against(organs, tmp_path):
    both = {"name": "both", "method": "mae+simclr", "against": "mae"}
    result = situs.study(config(organs, tmp_path, arms=["none", "mae", both]), worker=FAKE)
    table = result.summary.set_index(["arm", "labels"])["scratch_labels_is"]
    assert table[("both", 2)] == table[("mae", 2)] == "≥"


def test_labels_that_count_patients_are_called_patients(organs, tmp_path):
    study = validate(StudyConfig, config(organs, tmp_path))
    assert [labelled(study, n) for n in (1, 4, 2.5)] == ["1 label", "4 labels", "2.5 labels"]
    study = validate(StudyConfig, config(organs, tmp_path, labels_are="patients"))
    assert [labelled(study, n) for n in (1, 4)] == ["1 labelled patient", "4 labelled patients"]
    assert counted(study) == "labelled patients"
