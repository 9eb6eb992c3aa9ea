"""Trainings as they are started and stopped: real processes, real signals, one command."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import here
from small_runs import failing_after, finished, forked, info, pretraining, rows, start, wait_until
from typer.testing import CliRunner

from situs.cli import app
from situs.cli.exits import MEANING, Exit
from situs.errors import ConfigError, Interrupted, Terminated
from situs.training.processes import _check_device
from situs.training.stopping import Left, left_to_do, stop_signals

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretraining(tmp_path_factory.mktemp("loop"))


@pytest.mark.slow
def test_two_processes_do_what_one_does_and_one_goes_on_where_two_stood(
    settings: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    asked = ("pretrain", "--no-report", "--config", settings)
    single = ("--devices", 1, "--batch-size", 4, "--quiet")
    with failing_after(3):
        here(Exit.OUT_OF_MEMORY, *asked, "--out", one, *single, "--steps", 900)
    both = start("situs", *asked, "--out", two, "--steps", 900)
    wait_until(lambda: len(rows(two)) > 2, both)
    both.send_signal(signal.SIGTERM)  # to the first process alone: it tells the other
    out, err = finished(both, Exit.TERMINATED)
    step = info(two)["step"]
    assert err.count("Stopped at step") == 1
    assert f"Stopped at step {step}; go on with: situs pretrain --resume {two}" in err
    assert out == ""
    assert (info(two)["status"], info(two)["ended"]) == ("stopped", "terminated")
    assert len(rows(one)) == 3
    np.testing.assert_allclose(rows(two)[:3], rows(one), rtol=1e-5)

    # The same batch on one device goes on; another batch is another run.
    again = ("pretrain", "--no-report", "--resume", two)
    said = here(Exit.REFUSED, *again, "--devices", 1, "--quiet")
    assert "batch_size × devices: was 4, now 2" in said
    same = forked("situs", *again, *single)
    wait_until(lambda: len(rows(two)) > step + 2, same)
    os.killpg(same.pid, signal.SIGINT)  # as a terminal does
    _, err = finished(same, Exit.INTERRUPTED)
    assert f"go on with: situs pretrain --resume {two}" in err
    assert info(two)["ended"] == "interrupted"
    assert info(two)["step"] > step


@pytest.mark.slow
def test_a_process_that_dies_ends_all_with_one_message(settings: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    both = forked(
        *("situs", "pretrain", "--no-report", "--config", settings, "--out", run),
        *("--steps", 9000, "-q"),
        children=1,
    )
    wait_until(lambda: len(rows(run)) > 2, both)
    children = Path(f"/proc/{both.pid}/task/{both.pid}/children").read_text().split()
    assert len(children) == 1
    os.kill(int(children[0]), signal.SIGKILL)
    _, err = finished(both, Exit.FAILED)
    assert err.count("error:") == 1
    assert "Warning" not in err, "of torch's own, which no user can do anything about"
    assert "process 1 of 2 was killed by SIGKILL" in err
    assert "Go on with --resume" in err
    assert (info(run)["status"], info(run)["ended"]) == ("stopped", "failed")
    assert list((run / "checkpoints/last").glob("state-*.ckpt"))


def test_exit_codes_have_one_table_that_the_docs_and_the_help_repeat() -> None:
    docs = " ".join((DOCS / "clusters.md").read_text(encoding="utf-8").split())
    shown = CliRunner(env={"COLUMNS": "1000"}).invoke(app, ["--help"]).output
    for code, meaning in MEANING.items():
        assert f"| {code:d} | {meaning} |" in docs
        assert f"{code:d} {meaning}" in shown


@pytest.mark.parametrize(("rank", "times"), [(None, 1), ("0", 1), ("1", 0)])
def test_one_process_of_a_terminal_says_that_a_step_is_waited_for(
    rank: str | None, times: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A terminal sends a Ctrl-C to all of them."""
    monkeypatch.delenv("SITUS_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("SITUS_RANK", rank)
    with stop_signals(lambda: Left("", False)) as stops:
        stops.gentle = True
        os.kill(os.getpid(), signal.SIGINT)
        assert stops.received == signal.SIGINT
    assert capfd.readouterr().err.count("stopping after this step") == times


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_a_training_stopped_outside_its_steps_says_what_goes_on(verb: str, tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    states = folder / "states"
    states.mkdir(parents=True)

    def told(number: int, kind: type[BaseException]) -> str:
        def left() -> Left:
            os.kill(os.getpid(), signal.SIGTERM)  # once more, as ``timeout`` and studies do
            return left_to_do(verb, folder, "begun.json", states)

        with pytest.raises(kind) as ended, stop_signals(left):
            os.kill(os.getpid(), number)
        return str(ended.value)

    assert (
        told(signal.SIGINT, Interrupted) == "stopped by Ctrl-C; begin again with the same command"
    )
    (folder / "begun.json").touch()
    again = "begin again with the same command and --overwrite"
    assert told(signal.SIGTERM, Terminated) == f"stopped by SIGTERM; {again}"
    (states / f"state-0000004-{32 * '0'}.ckpt").touch()
    again = f"go on with: situs {verb} --resume '{folder}'"
    assert told(signal.SIGTERM, Terminated) == f"stopped by SIGTERM; {again}"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_gpus_that_are_not_there_are_refused_before_anything_is_begun(
    verb: str, tmp_path: Path, settings: Path
) -> None:
    data = ("--data", settings.parent / "store") if verb == "pretrain" else ("--data", tmp_path)
    out = tmp_path / "new"
    said = here(
        Exit.REFUSED, verb, *data, "--out", out, *("--devices", 2), *("--accelerator", "gpu")
    )
    assert "--accelerator gpu with --devices 2 asks for more GPUs than there are" in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("accelerator", "devices", "there", "refused"),
    [
        ("auto", 2, 1, True),  # Lightning would take the GPU, and no core beside it
        ("auto", 2, 0, False),
        ("auto", 2, 2, False),
        ("gpu", 1, 0, True),
        ("gpu", 1, 1, False),
        ("cpu", 2, 1, False),
    ],
)
def test_as_many_devices_as_there_are(
    accelerator: str, devices: int, there: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    if not refused:
        _check_device(devices, accelerator)
        return
    with pytest.raises(ConfigError, match=r"more GPUs than there are: torch finds.*cpu"):
        _check_device(devices, accelerator)
