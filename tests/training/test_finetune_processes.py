"""A fine-tuning in two processes is the one of a single process on the joined batch."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import finetuning, finished, start

from situs.cli.exits import Exit
from situs.transfer.check import check_result

STEPS = 60


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetuning(tmp_path_factory.mktemp("labelled"), steps=STEPS)


def started(*words: Any) -> subprocess.Popen[str]:
    """``situs finetune``."""
    return start("situs", "finetune", *words)


def rows(result: Path, column: str) -> dict[int, float]:
    with (result / "metrics.csv").open() as file:
        found = [(int(row["step"]), row.get(column)) for row in csv.DictReader(file)]
    return {step: float(value) for step, value in found if value}


def test_two_processes_finetune_as_one_and_one_goes_on_where_two_stood(
    settings: Path, tmp_path: Path
) -> None:
    one, two, stopped = tmp_path / "one", tmp_path / "two", tmp_path / "stopped"
    asked = ("--config", settings, "--batch-size", 2, "--devices", 2)
    finished(started("--config", settings, "--batch-size", 4, "--out", one, "--quiet"), Exit.DONE)

    out, err = finished(started(*asked, "--out", two, "--json"), Exit.DONE)
    assert json.loads(out)["split"]["train"], "one result, printed once"
    assert "Error" not in err, err
    assert "UserWarning" not in err, err
    assert check_result(two) == []
    for term in ("loss/dice", "loss/ce", "loss/total"):
        a, b = rows(one, term), rows(two, term)
        assert list(a) == list(b) == [1, *range(10, STEPS + 1, 10)]
        np.testing.assert_allclose(a[1], b[1], rtol=1e-6)
        np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-4)
    scores = [rows(result, "score/validation") for result in (one, two)]
    np.testing.assert_allclose(*[list(s.values()) for s in scores], atol=2e-3)
    for part in ("encoder", "decoder", "head"):
        a, b = (load_file(r / "model" / f"{part}.safetensors") for r in (one, two))
        assert all(torch.allclose(a[k].float(), b[k].float(), atol=1e-4) for k in a)

    both = started(*asked, "--out", stopped)
    end = time.monotonic() + 180
    while not list(stopped.glob("state/state-*.ckpt")) and time.monotonic() < end:
        time.sleep(0.05)
    both.send_signal(signal.SIGTERM)  # to the first process alone: it tells the other
    _, err = finished(both, Exit.TERMINATED)
    assert err.count("go on with: situs finetune --resume") == 1
    _, err = finished(started("--resume", stopped, "--devices", 1), Exit.REFUSED)
    assert "batch_size × devices: was 4, now 2" in err
    finished(started("--resume", stopped, "--devices", 1, "--batch-size", 4, "--quiet"), Exit.DONE)
    a, b = rows(one, "loss/total"), rows(stopped, "loss/total")
    assert list(a) == list(b)
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-4)


def test_a_process_that_dies_ends_the_finetuning_with_one_message(
    settings: Path, tmp_path: Path
) -> None:
    result = tmp_path / "result"
    both = started(
        *("--config", settings, "--devices", 2, "--out", result, "--steps", 9000, "--quiet"),
    )
    end = time.monotonic() + 180
    while not list(result.glob("state/state-*.ckpt")) and time.monotonic() < end:
        time.sleep(0.05)
    children = Path(f"/proc/{both.pid}/task/{both.pid}/children").read_text().split()
    assert len(children) == 1
    os.kill(int(children[0]), signal.SIGKILL)
    _, err = finished(both, Exit.FAILED)
    assert err.count("error:") == 1
    assert "process 1 of 2 ended with code -9" in err
    assert not (result / "result.json").exists()
    assert list(result.glob("state/state-*.ckpt")), "what was computed is kept"
