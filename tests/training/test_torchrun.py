"""torchrun: two processes do what one does, one that fails ends all, and any number goes on."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from small_runs import (
    FAILS,
    FINETUNING,
    PRETRAINING,
    finetuning,
    finished,
    free_port,
    info,
    pretraining,
    rows,
    start,
)

from situs.cli.exits import Exit
from situs.training.check import check_run
from situs.transfer.check import check_result


def torchrun(*command: Any) -> subprocess.Popen[str]:
    ours = ("--nproc-per-node", 2, "--master-port", free_port())
    return start("torch.distributed.run", *ours, *command)


def failing(folder: Path, module: dict[str, str]) -> Path:
    script = folder / "fails.py"
    script.write_text(FAILS.format(**module))
    return script


def test_pretraining_equals_one_process_and_goes_on_with_another_number_of_them(
    tmp_path: Path,
) -> None:
    settings, script = pretraining(tmp_path, steps=12), failing(tmp_path, PRETRAINING)
    base, two, one = tmp_path / "base", tmp_path / "two", tmp_path / "one"
    asked = ["pretrain", "--config", settings, "--no-report"]
    single = ["--devices", 1, "--batch-size", 4]
    both = ["--devices", 2, "--batch-size", 2]
    finished(start("situs", *asked, "--out", base, *single, "-q"), Exit.DONE)

    # Two that torchrun started, of which one fails; one goes on.
    _, err = finished(torchrun(script, *asked, "--out", two, "-q"), 1)
    assert err.count("error: process 1 of 2: MemoryError: made up") == 1
    ended = info(two)
    assert (ended["status"], ended["ended"], ended["step"]) == ("stopped", "failed", 4)
    finished(start("situs", "pretrain", "--no-report", "--resume", two, *single, "-q"), Exit.DONE)

    # One that fails; two go on.
    _, err = finished(start(script, *asked, "--out", one, *single, "-q"), Exit.OUT_OF_MEMORY)
    assert "made up" in err
    again = ["pretrain", "--no-report", "--resume", one, *both, "--json"]
    out, err = finished(torchrun("-m", "situs", *again), 0)
    assert json.loads(out)["status"] == "finished", "printed once"
    assert "Error" not in err, err

    for run in (two, one):
        assert check_run(run) == []
        np.testing.assert_allclose(rows(run), rows(base), rtol=1e-6)
        assert len(rows(run)) == 12


def test_finetuning_equals_one_process_and_goes_on(tmp_path: Path) -> None:
    changes = {"steps": 20, "validate_every": 10, "checkpoint_every": 2}
    settings, script = finetuning(tmp_path, **changes), failing(tmp_path, FINETUNING)
    base, two = tmp_path / "base", tmp_path / "two"
    asked = ["finetune", "--config", settings]
    single = ["--devices", 1, "--batch-size", 4]
    both = ["--devices", 2, "--batch-size", 2]
    finished(start("situs", *asked, *single, "--out", base, "-q"), Exit.DONE)
    _, err = finished(torchrun(script, *asked, *both, "--out", two, "-q"), 1)
    assert err.count("error: process 1 of 2: MemoryError: made up") == 1
    out, err = finished(torchrun("-m", "situs", "finetune", "--resume", two, "--json"), 0)
    assert json.loads(out)["split"]["train"], "one result, printed once"
    assert check_result(two) == []
    np.testing.assert_allclose(rows(two), rows(base), rtol=1e-5)


def test_more_processes_than_devices_are_refused(tmp_path: Path) -> None:
    settings = pretraining(tmp_path, devices=1)
    _, err = finished(
        torchrun("-m", "situs", "pretrain", "--config", settings, "--out", tmp_path / "run"), 1
    )
    assert "torchrun started 2 processes, but the training asks for 1" in err
