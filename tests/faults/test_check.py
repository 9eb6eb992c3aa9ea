"""`situs check` names each damaged file of everything that situs writes, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kills import make_data
from small_runs import forked_workers
from typer.testing import CliRunner

from situs.cli import app
from situs.errors import SitusError
from situs.studies.check import check_folder

pytestmark = pytest.mark.slow

DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "binary": lambda content: bytes(range(256)) * 4,
    "deep": lambda content: b"[" * 100_000,
}
# Told by nobody: words for people, what other programs write for themselves, and the index of a
# list that is made anew from it.
FREE = ("records.index", "events.*", "hparams.yaml", "log.txt", "*.html", "*.md", ".lock")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its store, a result, and predictions, all made by the command line."""
    home = tmp_path_factory.mktemp("home")
    make_data(home)
    for command in (
        ["pretrain", "--config", str(home / "spatial.yaml"), "--out", str(home / "run")],
        ["finetune", "--config", str(home / "finetune.yaml"), "--out", str(home / "result")],
        ["predict", str(home / "result"), str(home / "images"), "--out", str(home / "predicted")],
    ):
        made = CliRunner().invoke(app, [*command, "--quiet"])
        assert made.exit_code == 0, made.output
    return home


def damaged(files: list[Path]) -> Iterator[tuple[Path, str]]:
    """Each file in each state; whole again afterwards."""
    for file in files:
        good = file.read_bytes()
        for name, damage in DAMAGES.items():
            # Half of a table can be a whole one: that is said in docs/reliability.md.
            if damage(good) == good or (name == "cut" and file.suffix == ".csv"):
                continue
            try:
                file.write_bytes(damage(good))
                yield file, name
            finally:
                file.write_bytes(good)


def below(folder: Path) -> list[Path]:
    found = (f for f in sorted(folder.rglob("*")) if f.is_file())
    return [f for f in found if not any(f.match(pattern) for pattern in FREE)]


def unnamed(top: Path, files: list[Path]) -> list[tuple[str, str]]:
    """What the check of a folder does not name with something to do."""
    missed = []
    for file, damage in damaged(files):
        found = [fault for fault in check_folder(top) if fault.file == str(file)]
        if not any(len(fault.what.split()) > 3 for fault in found):
            missed.append((str(file.relative_to(top)), damage))
    return missed


@pytest.mark.parametrize("kind", ["run", "result", "predicted"])
def test_each_damaged_file_is_named(home: Path, kind: str) -> None:
    top = home / kind
    assert check_folder(top) == []
    files = below(top)
    shown = [f for f in files if f.parent.parent.name != "scans"]
    scans = [f for f in files if f.parent.parent.name == "scans"][:3]
    assert unnamed(top, shown + scans) == []


def test_what_is_missing_is_named(home: Path) -> None:
    lost = {
        home / "run": ["metrics.csv", "run.json", "data.json", "store/store.json"],
        home / "result": ["config.yaml", "model/task.json", "model/head.safetensors"],
        home / "predicted": ["predictions.csv"],
    }
    lost[home / "result"] += [f"predictions/{f.name}" for f in (home / "result").glob("*/*.nii.gz")]
    lost[home / "predicted"] += [f.name for f in (home / "predicted").glob("*.nii.gz")]
    for top, names in lost.items():
        for name in names:
            away = (top / name).rename(home / "away")
            try:
                told = CliRunner().invoke(app, ["check", str(top)])
            finally:
                away.rename(top / name)
            assert told.exit_code in (1, 2)
            assert name in told.output + str(told.exception), name


def test_a_fine_tuning_that_was_stopped_can_be_checked(home: Path, tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    for name, content in (("begun.json", "{}"), ("config.yaml", "seed: 0\n")):
        (tmp_path / "begun" / name).write_text(content)
    state = tmp_path / "begun" / "state" / f"state-0000003-{'0' * 32}.ckpt"
    state.parent.mkdir()
    state.write_bytes(b"x")
    (fault,) = check_folder(tmp_path / "begun")
    assert (fault.file, "before it" in fault.what) == (str(state), True)
    with pytest.raises(SitusError, match="nothing that can be checked"):
        check_folder(home / "images")


@pytest.mark.slow
def test_each_damaged_file_of_a_study_is_named(home: Path) -> None:
    out = home / "study"
    study = ["study", str(home / "study.yaml"), "--set", f"out={out}", "--quiet"]
    with forked_workers():
        made = CliRunner().invoke(app, study)
    assert made.exit_code == 0, made.output
    assert check_folder(out) == []
    assert unnamed(out, [f for f in below(out) if "run" not in f.relative_to(out).parts]) == []
    voxels = next(out.glob("jobs/store-*/run/scans/*/*.b2nd"))
    weights = next(out.glob("jobs/pretrain-*/run/checkpoints/last/encoder.safetensors"))
    assert unnamed(out, [voxels, weights]) == []
    # What is damaged is made anew, and kept.
    job = next(out.glob("jobs/finetune-none-*"))
    for file in (job / "result.json", out / "cases.json", out / "cases-unlabelled.json"):
        file.write_bytes(b"{" + file.read_bytes()[5:])
    damage = pytest.warns(UserWarning, match=r"result\.json is damaged.*done again")
    with damage, forked_workers():
        assert CliRunner().invoke(app, study).exit_code == 0
    assert check_folder(out) == []
    assert (job / "result.json.damaged").is_file()
