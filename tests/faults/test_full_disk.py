"""A disk that takes nothing more: one sentence, one exit code, nothing lost."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from collections_made import write_collection
from typer.testing import CliRunner

from situs.cli import app, main
from situs.cli.exits import GOES_ON, Exit

pytestmark = pytest.mark.slow

SMALL = ["--set", "backbone={name: cnn, options: {channels: [4, 8]}}", "--set", "threads=1"]
VIEWS = "options={view_size: [12, 12, 12], chunk_size: [4, 4, 4], width: 8}"
LEARN = [*SMALL, "--method", "spatial", "--set", VIEWS, "--set", "batch_size=2"]
LEARN += ["--set", "workers=0", "--set", "steps=4", "--set", "observe_samples=2"]
LEARN += ["--set", "observe_controls=never", "--set", "checkpoint_every=2"]
TUNE = [
    "--init",
    "none",
    *SMALL,
    "--labels",
    "2",
    "--test",
    "2",
    "--set",
    "steps=2",
    "--set",
    "patch_size=[12,12,12]",
]


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """No file can grow beyond ``size`` bytes, in this process and in those it starts."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog, a store, a run and a result to go on from."""
    place = tmp_path_factory.mktemp("disk")
    write_collection(place / "data", cases=6)
    images = place / "data" / "images"
    for words in (
        ["scan", images, "--out", place / "catalog", "--workers", 0],
        ["prepare", place / "catalog", "--out", place / "store", "--workers", 0],
        ["pretrain", "--data", place / "store", "--out", place / "run", *LEARN],
        ["finetune", "--data", place / "data", "--out", place / "result", *TUNE],
    ):
        told = CliRunner().invoke(app, list(map(str, words)))
        assert told.exit_code == 0, told.output
    study = {"data": str(place / "data"), "out": str(place / "new"), "arms": ["none"]}
    study |= {"labels": [2], "seeds": [0], "test": 2, "validation": 0, "bootstrap": 20}
    study |= {"backbone": {"name": "cnn", "options": {"channels": [4, 8]}}, "processes": 1}
    study |= {"finetune": {"steps": 2, "patch_size": [8, 8, 8]}}
    (place / "study.yaml").write_text(yaml.safe_dump(study))
    return place


def told_by(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and standard error of the command as a shell sees it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["situs", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0), capsys.readouterr().err


def content(place: Path) -> dict[str, str]:
    """Digest of every file that stood there before, but of what says when it was looked at."""
    files = (f for f in place.rglob("*") if f.is_file() and "new" not in f.parts)
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


STAGES = {
    "scan": (0, "scan DATA/images --out NEW --workers 0"),
    "prepare": (0, "prepare CATALOG --out NEW --workers 0"),
    "prepare, voxels": (6000, "prepare CATALOG --out NEW --workers 0"),
    "pretrain": (0, "pretrain --data STORE --out NEW LEARN"),
    "pretrain, weights": (8000, "pretrain --data STORE --out NEW LEARN"),
    "observe": (0, "observe RUN --out NEW/page.html"),
    "audit": (0, "audit RUN"),
    "compare": (0, "compare RUN RUN --out NEW/page.html"),
    "finetune": (0, "finetune --data DATA --out NEW TUNE"),
    "finetune, state": (8000, "finetune --data DATA --out NEW TUNE"),
    "predict": (0, "predict RESULT DATA/images --out NEW"),
    "embed": (0, "embed RUN DATA/images --out NEW/features.parquet"),
    "export": (0, "export RUN --to safetensors --out NEW"),
    "export, onnx": (4000, "export RESULT --to onnx --out NEW"),
    "study": (0, "study STUDY"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_sentence_and_loses_nothing(
    place: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    size, line = STAGES[stage]
    named = {"DATA": place / "data", "CATALOG": place / "catalog", "STORE": place / "store"}
    named |= {"RUN": place / "run", "RESULT": place / "result", "STUDY": place / "study.yaml"}
    named["NEW"] = place / "new" / str(abs(hash(stage)))
    words: list[str] = []
    for word in line.split():
        first, _, rest = word.partition("/")
        lists = {"LEARN": LEARN, "TUNE": TUNE}
        words += lists.get(word) or [f"{named[first]}/{rest}" if first in named else word]
    before = content(place)
    with full_after(size):
        code, err = told_by([word.rstrip("/") for word in words], capsys)
    assert code == Exit.NOT_WRITTEN, err
    assert err.count("error:") == 1
    assert "Traceback" not in err
    assert "cannot" in err
    assert "What was finished before is whole" in err
    then = err.partition("Free some space, then ")[2].split(" ")[:2]
    assert then in (["begin", "again"], ["go", "on"])
    assert (then == ["go", "on"]) == (words[0] in GOES_ON)
    assert content(place) == before
    left = [f for f in place.rglob("*") if ".part" in f.name or f.name in (".lock", ".room")]
    assert left == []
    file = named["NEW"] / "run.json"
    if file.is_file():
        assert json.loads(file.read_text())["status"] == "stopped"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk of its own")
@pytest.mark.parametrize("kib", [300, 420, 700])
def test_a_run_on_a_disk_that_fills_says_truly_how_it_ended(
    place: Path, tmp_path: Path, kib: int, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", disk], check=False
    )
    if made.returncode:
        pytest.skip("this machine mounts nothing")
    try:
        words = ["pretrain", "--data", str(place / "store"), "--out", str(disk / "run"), *LEARN]
        words += ["--set", "steps=200", "--set", "observe_every=1"]
        code, err = told_by(words, capsys)
        assert code == Exit.NOT_WRITTEN, err
        assert "Traceback" not in err
        info = json.loads((disk / "run" / "run.json").read_text())
        assert info["status"] == "stopped"
        assert info["ended"] == "failed"
    finally:
        subprocess.run(["umount", disk], check=True)
