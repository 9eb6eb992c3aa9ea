"""Trainings that SLURM starts: its environment, two processes of this machine."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from small_runs import (
    FAILS,
    Started,
    finished,
    forked,
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

_SITUS = """
from situs.training import meeting
meeting._SILENT, meeting._GRACE_S = {}, {}
from situs.cli import main
main()
"""
# Beats that are waited for: only a broken connection tells; and fewer than a person would choose,
# yet more than a busy machine takes for one.
PATIENT, QUICK = _SITUS.format(10**6, 20.0), _SITUS.format(12, 3.0)
# Where nobody lives who could be suspected wrongly.
SUSPICIOUS = PATIENT.replace("from situs.cli", "meeting._SUSPECT = 2\nfrom situs.cli")
# Writes down how often nobody was at the meeting; soon at first.
EARLY = """
from datetime import timedelta
from pathlib import Path
from situs.training import processes
connect, asked = processes.TCPStore, Path({!r})
def asking(*where, **how):
    times = len(asked.read_text()) if asked.exists() else 0
    if times < 2:
        how["timeout"] = timedelta(seconds=1)
    try:
        return connect(*where, **how)
    except RuntimeError:
        asked.write_text("x" * (times + 1))
        raise
processes.TCPStore = asking
from situs.cli import main
main()
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretraining(tmp_path_factory.mktemp("cluster"))


def words(settings: Path, run: Path, steps: int) -> list[str]:
    asked = ["pretrain", "--config", settings, "--out", run, "--steps", steps, "--no-report", "-q"]
    return list(map(str, asked))


def both(settings: Path, run: Path, command: Path) -> list[Started]:
    """Two tasks that are some steps into an endless training."""
    job = free_job()
    tasks = [slurm(rank, job, command, *words(settings, run, 90_000)) for rank in (0, 1)]
    wait_until(lambda: len(rows(run)) > 3, *tasks)
    return tasks


def test_a_first_process_that_is_late_is_waited_for(settings: Path, tmp_path: Path) -> None:
    run, job, asked = tmp_path / "run", free_job(), tmp_path / "asked"
    script = tmp_path / "early.py"
    script.write_text(EARLY.format(str(asked)))
    early = slurm(1, job, script, *words(settings, run, 3))
    wait_until(lambda: asked.is_file() and asked.stat().st_size > 1, early)
    # A program, as srun starts them; the other tasks of this file are forked.
    other = slurm(0, job, "situs", *words(settings, run, 3), by=start)
    for process in (early, other):
        finished(process, Exit.DONE)
    ended = info(run)
    assert (ended["status"], ended["step"], ended["slurm_job"]) == ("finished", 3, str(job))


@pytest.mark.parametrize("dying", [0, 1])
def test_a_task_that_is_killed_ends_the_other_with_one_message(
    dying: int, settings: Path, tmp_path: Path
) -> None:
    run, script = tmp_path / "run", tmp_path / "suspicious.py"
    script.write_text(SUSPICIOUS)
    tasks = both(settings, run, script)
    tasks[dying].send_signal(signal.SIGKILL)
    _, err = finished(tasks[1 - dying], Exit.FAILED)
    assert err.count("error:") == 1, err
    assert f"process {dying} of 2 is gone" in err
    assert "Traceback" not in err
    ended = info(run)
    assert (ended["status"], ended["ended"]) == ("stopped", "failed")
    assert f"process {dying} of 2 is gone" in ended["stopped_by"]
    if dying == 0:  # What was computed is there, and goes on, here with one process.
        goes_on = ["--resume", run, "--devices", 1, "--batch-size", 4, "--set", "log_every=5"]
        alone = forked("situs", "pretrain", *goes_on, "-q")
        before = len(rows(run))
        wait_until(lambda: len(rows(run)) > before + 1, alone)
        alone.terminate()
        finished(alone, Exit.TERMINATED)


def test_a_task_with_an_error_ends_the_other_with_one_message(
    settings: Path, tmp_path: Path
) -> None:
    run, job = tmp_path / "run", free_job()
    script, patient = tmp_path / "fails.py", tmp_path / "patient.py"
    script.write_text(FAILS)
    patient.write_text(PATIENT)
    other = slurm(0, job, patient, *words(settings, run, 90_000))
    failing = slurm(1, job, script, *words(settings, run, 90_000))
    _, err = finished(failing, Exit.OUT_OF_MEMORY)
    assert "error:" not in err
    _, err = finished(other, Exit.FAILED)
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
    _, err = finished(first, Exit.FAILED)
    second.kill()
    second.communicate()
    assert err.count("error:") == 1, err
    assert "process 1 of 2 is gone" in err
    assert (info(run)["status"], info(run)["ended"]) == ("stopped", "failed")
