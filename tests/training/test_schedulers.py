"""Trainings that SLURM starts: its environment, two processes of this machine."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
from small_runs import (
    FAILS,
    PRETRAINING,
    finished,
    free_job,
    info,
    pretraining,
    rows,
    slurm,
    start,
    wait_until,
)

from situs.cli.exits import Exit

pytestmark = pytest.mark.slow

QUICK = """
import sys
from situs.training import meeting
meeting._SILENT, meeting._GRACE_S = 5, 3.0
from situs.cli import main
main()
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretraining(tmp_path_factory.mktemp("cluster"))


def words(settings: Path, run: Path, steps: int) -> list[str]:
    asked = ["pretrain", "--config", settings, "--out", run, "--steps", steps, "--no-report", "-q"]
    return list(map(str, asked))


def both(settings: Path, run: Path, command: str | Path = "situs") -> list[subprocess.Popen[str]]:
    """Two tasks that are some steps into an endless training."""
    job = free_job()
    tasks = [slurm(rank, job, command, *words(settings, run, 90_000)) for rank in (0, 1)]
    wait_until(lambda: len(rows(run)) > 3, *tasks)
    return tasks


def test_a_first_process_that_is_late_is_waited_for(settings: Path, tmp_path: Path) -> None:
    run, job = tmp_path / "run", free_job()
    early = slurm(1, job, "situs", *words(settings, run, 3))
    time.sleep(12)
    assert early.poll() is None, early.communicate()
    other = slurm(0, job, "situs", *words(settings, run, 3))
    for process in (early, other):
        finished(process, Exit.DONE)
    ended = info(run)
    assert (ended["status"], ended["step"], ended["slurm_job"]) == ("finished", 3, str(job))


@pytest.mark.parametrize("dying", [0, 1])
def test_a_task_that_is_killed_ends_the_other_with_one_message(
    dying: int, settings: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    tasks = both(settings, run)
    tasks[dying].send_signal(signal.SIGKILL)
    began = time.monotonic()
    _, err = finished(tasks[1 - dying], Exit.FAILED)
    assert time.monotonic() - began < 60
    assert err.count("error:") == 1, err
    assert f"process {dying} of 2 is gone" in err
    assert "Traceback" not in err
    ended = info(run)
    assert (ended["status"], ended["ended"]) == ("stopped", "failed")
    assert f"process {dying} of 2 is gone" in ended["stopped_by"]
    if dying == 0:  # What was computed is there, and goes on, here with one process.
        goes_on = ["--resume", run, "--devices", 1, "--batch-size", 4, "--set", "log_every=5"]
        alone = start("situs", "pretrain", *goes_on, "-q")
        before = len(rows(run))
        wait_until(lambda: len(rows(run)) > before + 1, alone)
        alone.terminate()
        finished(alone, Exit.TERMINATED)


def test_a_task_with_an_error_ends_the_other_with_one_message(
    settings: Path, tmp_path: Path
) -> None:
    run, job = tmp_path / "run", free_job()
    script = tmp_path / "fails.py"
    script.write_text(FAILS.format(**PRETRAINING))
    other = slurm(0, job, "situs", *words(settings, run, 90_000))
    failing = slurm(1, job, script, *words(settings, run, 90_000))
    _, err = finished(failing, Exit.OUT_OF_MEMORY)
    assert "error:" not in err
    _, err = finished(other, Exit.FAILED, 60)
    assert err.count("error:") == 1, err
    assert "process 1 of 2: MemoryError: made up" in err
    ended = info(run)
    assert (ended["status"], ended["ended"], ended["step"]) == ("stopped", "failed", 4)
    assert ended["stopped_by"] == "ProcessFailed: process 1 of 2: MemoryError"


def test_a_task_that_stands_still_ends_the_other(settings: Path, tmp_path: Path) -> None:
    """What a machine does that is cut off: no connection breaks, and the step never ends."""
    run, script = tmp_path / "run", tmp_path / "quick.py"
    script.write_text(QUICK)
    first, second = both(settings, run, script)
    second.send_signal(signal.SIGSTOP)
    _, err = finished(first, Exit.FAILED, 60)
    second.kill()
    second.communicate()
    assert err.count("error:") == 1, err
    assert "process 1 of 2 is gone" in err
    assert (info(run)["status"], info(run)["ended"]) == ("stopped", "failed")
