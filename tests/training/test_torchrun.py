"""torchrun: two processes do what one does, one that fails ends all, and any number goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import here
from small_runs import (
    FAILS,
    Started,
    failing_after,
    finetuning,
    finished,
    forked,
    free_port,
    info,
    pretraining,
    rows,
    start,
)

from situs.cli.exits import Exit
from situs.training.check import check_run
from situs.transfer.check import check_result
from situs.transfer.training import Finetuning

# Of a network with kinks a sum in another order can put an activation on the other side of one.
SMOOTH = {"name": "primus", "options": {"width": 24, "depth": 2, "heads": 2, "patch": [4]}}


def torchrun(*command: Any, by: Callable[..., Started] = start) -> Started:
    ours = ("--nproc-per-node", 2, "--master-port", free_port())
    return by("torch.distributed.run", *ours, *command)


forking = partial(forked, children=2)


@pytest.mark.slow
def test_pretraining_equals_one_process_and_goes_on_with_another_number_of_them(
    tmp_path: Path,
) -> None:
    settings = pretraining(tmp_path, steps=12, backbone=SMOOTH)
    script = tmp_path / "fails.py"
    script.write_text(FAILS)
    base, two, one = tmp_path / "base", tmp_path / "two", tmp_path / "one"
    asked = ["pretrain", "--config", settings, "--no-report"]
    single = ["--devices", 1, "--batch-size", 4]
    both = ["--devices", 2, "--batch-size", 2]
    here(Exit.DONE, *asked, "--out", base, *single, "-q")

    # Two that torchrun started, of which one fails; one goes on. It is the program here, and forked
    # with its processes below.
    _, err = finished(torchrun(script, *asked, "--out", two, "-q"), 1)
    assert err.count("error: process 1 of 2: MemoryError: made up") == 1
    ended = info(two)
    assert (ended["status"], ended["ended"], ended["step"]) == ("stopped", "failed", 4)
    here(Exit.DONE, "pretrain", "--no-report", "--resume", two, *single, "-q")

    # One that fails; two go on.
    with failing_after(4):
        assert "made up" in here(Exit.OUT_OF_MEMORY, *asked, "--out", one, *single, "-q")
    again = ["pretrain", "--no-report", "--resume", one, *both, "--json"]
    out, err = finished(torchrun("-m", "situs", *again, by=forking), 0)
    assert json.loads(out)["status"] == "finished", "printed once"
    assert "Error" not in err, err

    for run in (two, one):
        assert check_run(run) == []
        np.testing.assert_allclose(rows(run), rows(base), rtol=1e-6)
        assert len(rows(run)) == 12


@pytest.mark.slow
def test_finetuning_goes_on_with_two_processes_as_with_one(tmp_path: Path) -> None:
    settings = finetuning(tmp_path, steps=20, validate_every=10, checkpoint_every=2)
    base, two = tmp_path / "base", tmp_path / "two"
    asked = ["finetune", "--config", settings, "-q"]
    single = ["--devices", 1, "--batch-size", 4]
    here(Exit.DONE, *asked, *single, "--out", base)
    with failing_after(4, Finetuning):
        assert "made up" in here(Exit.OUT_OF_MEMORY, *asked, *single, "--out", two)
    again = ["finetune", "--resume", two, "--devices", 2, "--batch-size", 2, "--json"]
    out, err = finished(torchrun("-m", "situs", *again, by=forking), 0)
    assert json.loads(out)["split"]["train"], "one result, printed once"
    assert "Error" not in err, err
    assert check_result(two) == []
    np.testing.assert_allclose(rows(two), rows(base), rtol=1e-5)


def test_more_processes_than_devices_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = pretraining(tmp_path, devices=1)
    # What torchrun tells the first of two processes.
    for name, value in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 2), ("GROUP_RANK", 0)):
        monkeypatch.setenv(name, str(value))
    for name, value in (("LOCAL_WORLD_SIZE", 2), ("TORCHELASTIC_RUN_ID", "none")):
        monkeypatch.setenv(name, str(value))
    said = here(Exit.REFUSED, "pretrain", "--config", settings, "--out", tmp_path / "run")
    assert "torchrun started 2 processes, but the training asks for 1" in said
