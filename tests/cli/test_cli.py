"""What the command line says where it is used wrongly: one line, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import here

from situs import cli
from situs.cli.exits import Exit
from situs.cli.train import _finish

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
        (["prepare", "x", "--out", "y", "--spacing", "coarse"], "--spacing must be 'median' or 'n"),
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
