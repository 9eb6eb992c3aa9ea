"""What the command line says where it is used wrongly: one line, no traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from collections_made import write_collection
from command_line import here
from typer.testing import CliRunner

from situs import cli
from situs.cli.exits import Exit
from situs.cli.train import _finish
from situs.demo.studies import make_demo_studies
from situs.store import Store

_DATA = ["--data", "x", "--out", "y"]


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--config", "bad.yaml"], "bad.yaml is not valid YAML: "),
        (
            ["--config", "list.yaml"],
            "list.yaml must hold settings, a line 'name: value' each, got a list",
        ),
        (["--config", "absent.yaml"], "configuration file not found: absent.yaml"),
        (
            [*_DATA, "--set", "options.view_size=[1,2"],
            "--set options.view_size: '[1,2' is not valid YAML: ",
        ),
    ],
)
def test_yaml_that_cannot_be_read_is_named_in_one_line(
    verb: str,
    options: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "bad.yaml").write_text("steps: [1,\nseed: 2")
    (tmp_path / "list.yaml").write_text("- 1")
    monkeypatch.chdir(tmp_path)
    message = here(Exit.REFUSED, verb, *options)
    assert message.startswith(f"error: {said}")
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["finetune", *_DATA, "--set", "patience=3", "--labels", "2"], "give --validation"),
        (["finetune", *_DATA, "--freeze-encoder"], "--freeze-encoder would freeze random weights"),
        (["pretrain", "--config", "empty.yaml"], "--data is missing; it can also stand in"),
        (["pretrain", "--config", "empty.yaml", "--backbone", "vit"], "--backbone: 'backbone' is"),
        (["pretrain", *_DATA, "--steps", "0"], "--steps must be greater than 0, got 0"),
        (["pretrain", *_DATA, "--strategy", "fsdp"], "--strategy must be auto or ddp: each device"),
        (["finetune", *_DATA, "--set", "strategy=fsdp"], "splitting one over devices (FSDP, Deep"),
        (["pretrain", *_DATA, "--set", "optimiser.lr=-1"], "--set optimiser.lr must be greater"),
        (["prepare", "x", "--out", "y", "--spacing", "coarse"], "--spacing must be median, native"),
        (["pretrain", *_DATA], "--data is not there: x"),
        (["scan", ".", "--out", "y"], "nothing to read in .: no NIfTI"),
    ],
)
def test_errors_speak_of_what_was_typed(
    typed: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "empty.yaml" in typed:
        (tmp_path / "empty.yaml").write_text("data:  # required\nout:  # required\nbackbone: cnn\n")
    monkeypatch.chdir(tmp_path)
    message = here(Exit.REFUSED, *typed)
    assert said in message
    assert not any(word in message for word in ("Value error", "Input should", "PosixPath"))


def test_doctor_names_the_extra_of_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["situs", "doctor"])
    with pytest.raises(SystemExit):
        cli.main()
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line)
    assert rows["ipyniivue"].strip() == "missing: pip install 'situs[notebook]'"
    assert rows["onnxruntime"].strip() == "missing: pip install 'situs[onnx]'"


def test_brackets_in_paths_are_no_markup(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = SimpleNamespace(path=tmp_path / "[red]", observations=list)
    _finish(run, report=False, json=False, quiet=True)
    assert "[red]" in capsys.readouterr().out


def test_a_wrong_option_is_told_in_plain_words() -> None:
    told = " ".join(here(Exit.REFUSED, "finetune", "--labels", "nobody").replace("│", " ").split())
    assert "'--labels': must be a whole number, got 'nobody'" in told


def test_ctrl_c_says_a_word_before_the_command_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pressed(*given: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("situs.files.check_writable", pressed)  # while options are read
    monkeypatch.setattr(sys, "argv", ["situs", "scan", ".", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 130
    assert capsys.readouterr().err == (
        "stopped by Ctrl-C; nothing is left half written; begin again with the same command\n"
    )

    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")  # while it is imported
    where = os.pathsep.join([str(tmp_path), *sys.path])
    script = [sys.executable, "-m", "situs", "--version"]
    done = subprocess.run(
        script, check=False, env={**os.environ, "PYTHONPATH": where}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "stopped before anything was begun\n")


@pytest.mark.parametrize("verb", sorted(name for names in cli.PANELS.values() for name in names))
def test_help_has_no_types_of_python(verb: str) -> None:
    shown = CliRunner().invoke(cli.app, [verb, "--help"], env={"COLUMNS": "200"}).stdout
    assert f" {verb} [OPTIONS]" in shown
    assert not re.search(r"list\[|<(bool|str|int|float)\b", shown)
    assert "…}..." not in shown


def test_paths_are_told_as_they_were_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_collection(tmp_path / "my data", cases=1) / "images"
    monkeypatch.chdir(tmp_path)
    typed = here(Exit.REFUSED, "prepare", "my data/images", "--out", "my data/images")
    assert typed.startswith("error: my data/images ")
    whole = here(Exit.REFUSED, "prepare", data, "--out", data)
    assert whole == typed.replace("my data/images", str(data))
    # A path elsewhere that merely goes on as the working folder does stays whole.
    there = tmp_path / "other" / tmp_path.relative_to("/") / "nothing"
    monkeypatch.setattr("sys.argv", ["situs"])
    assert cli._as_typed(f"{there} is absent") == f"other{tmp_path}/nothing is absent"


def test_a_spacing_that_leaves_nothing_of_the_scans_is_what_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One number is that of all axes; the scans are well, and 'situs scan' would say so."""
    write_collection(tmp_path / "data", cases=2)
    monkeypatch.chdir(tmp_path)
    typed = ["prepare", "data/images", "--out", "store", "--workers", "0", "--spacing"]
    said = here(Exit.REFUSED, *typed, "1000")
    assert said == (
        "error: no scan can be used (absurd-spacing); of case-0.nii.gz its 26×22×14 voxels of "
        "1×1.2×2 mm would become 1×1×1; choose another --spacing\n"
    )
    here(Exit.DONE, *typed, "3")
    for scan in Store.open("store"):
        assert scan.record.spacing == pytest.approx((3.0, 3.0, 3.0))


def test_files_of_no_study_are_no_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_collection(tmp_path / "data", cases=2)
    monkeypatch.chdir(tmp_path)
    said = here(Exit.REFUSED, "studies", "data/images")
    assert said == (
        "error: no study in data/images: only 2 scans of no study (formats other than DICOM name "
        "none)\n"
    )
    make_demo_studies("studies", "knee", 2, seed=0)
    here(Exit.DONE, "scan", "data/images", "studies", "--out", "catalog", "--workers", "0")
    shown = CliRunner().invoke(cli.app, ["studies", "catalog", "--rules", "knee"])
    assert "\n2 studies, 2 with two roles or more" in shown.stdout
    assert "left out: 2 scans of no study" in shown.stderr
    assert shown.exit_code == Exit.DONE, "what is of no study lacks no role"


def test_a_narrow_terminal_gets_lines_of_words(tmp_path: Path) -> None:
    data = write_collection(tmp_path / "data", cases=1) / "images"
    (data / "bad.nii").write_bytes(b"")
    typed = ["scan", str(data), "--root", str(data), "--workers", "0"]
    wide = CliRunner().invoke(cli.app, typed, env={"COLUMNS": "120"}).stdout
    assert [*wide.splitlines()[0].split()][:4] == ["scan", "shape", "mm", "axes"]
    lines = CliRunner().invoke(cli.app, typed, env={"COLUMNS": "40"}).stdout.splitlines()
    first = lines.index("case-0.nii.gz")
    assert " ".join(lines[first + 1].split()).startswith("26×22×14, 1×1.2×2 mm, ")
    assert lines[lines.index("bad.nii") + 1].strip() == "empty-file, the file holds no bytes"
    assert min(len(line) for line in lines if line.strip()) > 6, "no column of letters"
