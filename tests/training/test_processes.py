"""Trainings as they are started and stopped: real processes, real signals, one command."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import info, pretraining, start

from situs.cli.exits import MEANING, Exit

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loop")
    return pretraining(folder, steps=5, batch_size=4, devices=1)


def started(*words: Any, **environment: str) -> subprocess.Popen[str]:
    """``situs pretrain``."""
    return start("situs", "pretrain", "--no-report", *words, **environment)


def losses(run: Path) -> list[list[float]]:
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [[float(v) for k, v in row.items() if k.startswith("loss/")] for row in rows]


def wait_for_steps(run: Path, process: subprocess.Popen[str]) -> None:
    """Until some rows of the metrics file are written."""
    end = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < end:
        file = run / "metrics.csv"
        if file.is_file() and len(file.read_text().splitlines()) > 3:
            return
        time.sleep(0.05)
    pytest.fail(f"no steps: {process.communicate(timeout=30)}")


def test_two_processes_do_what_one_does_and_one_goes_on_where_two_stood(
    settings: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    alone = started("--config", settings, "--out", one, "--steps", 900, "--quiet")
    wait_for_steps(one, alone)
    alone.terminate()
    assert "Stopped at step" in alone.communicate(timeout=120)[1]
    assert alone.returncode == Exit.TERMINATED
    both = started(
        "--config", settings, "--out", two, "--devices", 2, "--batch-size", 2, "--steps", 900
    )
    wait_for_steps(two, both)
    both.send_signal(signal.SIGTERM)  # to the first process alone: it tells the other
    out, err = both.communicate(timeout=120)
    assert both.returncode == Exit.TERMINATED, err
    step = info(two)["step"]
    assert err.count("Stopped at step") == 1
    assert f"Stopped at step {step}; go on with: situs pretrain --resume {two}" in err
    assert out == ""
    assert (info(two)["status"], info(two)["ended"]) == ("stopped", "terminated")
    np.testing.assert_allclose(losses(two)[:3], losses(one)[:3], rtol=1e-5)

    # The same batch on one device goes on; another batch is another run.
    other = started("--resume", two, "--devices", 1, "--quiet")
    assert "batch_size × devices: was 4, now 2" in other.communicate(timeout=120)[1]
    assert other.returncode == Exit.REFUSED
    same = started("--resume", two, "--devices", 1, "--batch-size", 4, "--quiet")
    time.sleep(1)
    wait_for_more(two, same, step)
    os.killpg(same.pid, signal.SIGINT)  # as a terminal does
    out, err = same.communicate(timeout=120)
    assert same.returncode == Exit.INTERRUPTED, err
    assert f"go on with: situs pretrain --resume {two}" in err
    assert info(two)["ended"] == "interrupted"
    assert info(two)["step"] > step


def wait_for_more(run: Path, process: subprocess.Popen[str], step: int) -> None:
    end = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < end:
        if len(losses(run)) > step + 2:
            return
        time.sleep(0.05)
    pytest.fail(f"no more steps: {process.communicate(timeout=30)}")


def test_a_process_that_dies_ends_all_with_one_message(settings: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    both = started(
        "--config", settings, "--out", run, "--devices", 2, "--batch-size", 2, "--steps", 9000, "-q"
    )
    wait_for_steps(run, both)
    children = Path(f"/proc/{both.pid}/task/{both.pid}/children").read_text().split()
    assert len(children) == 1
    os.kill(int(children[0]), signal.SIGKILL)
    _, err = both.communicate(timeout=120)
    assert both.returncode == Exit.FAILED
    assert err.count("error:") == 1
    assert "process 1 of 2 ended with code -9" in err
    assert (info(run)["status"], info(run)["ended"]) == ("stopped", "failed")
    assert list((run / "checkpoints/last").glob("state-*.ckpt"))


def test_exit_codes_have_one_table_that_the_docs_and_the_help_repeat() -> None:
    docs = " ".join((DOCS / "clusters.md").read_text(encoding="utf-8").split())
    shown = subprocess.run(
        [sys.executable, "-m", "situs", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "1000"},
        check=True,
    ).stdout
    for code, meaning in MEANING.items():
        assert f"| {code:d} | {meaning} |" in docs
        assert f"{code:d} {meaning}" in shown
