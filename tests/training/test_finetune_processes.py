"""A fine-tuning in two processes is the one of a single process on the joined batch."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import here
from safetensors.torch import load_file
from small_runs import finetuning, finished, forked, rows_by_step, start, wait_until

from situs.cli.exits import Exit
from situs.transfer.check import check_result

pytestmark = pytest.mark.slow
STEPS = 60


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetuning(tmp_path_factory.mktemp("tuned"), steps=STEPS)


def begun(result: Path, *words: Any) -> Any:
    """A fine-tuning in processes of its own that has saved a state."""
    process = forked("situs", "finetune", *words, "--out", result, children=1)
    wait_until(lambda: bool(list(result.glob("state/state-*.ckpt"))), process)
    return process


def test_two_processes_finetune_as_one_and_one_goes_on_where_two_stood(
    settings: Path, tmp_path: Path
) -> None:
    one, two, stopped = tmp_path / "one", tmp_path / "two", tmp_path / "stopped"
    asked = ("--config", settings, "--batch-size", 2, "--devices", 2)
    here(Exit.DONE, "finetune", "--config", settings, "--batch-size", 4, "--out", one, "--quiet")

    both = start("situs", "finetune", *asked, "--out", two, "--json")
    out, err = finished(both, Exit.DONE)
    assert json.loads(out)["split"]["train"], "one result, printed once"
    assert "Error" not in err, err
    assert "UserWarning" not in err, err
    assert check_result(two) == []
    for term in ("loss/dice", "loss/ce", "loss/total"):
        a, b = rows_by_step(one, term), rows_by_step(two, term)
        assert list(a) == list(b) == [1, *range(10, STEPS + 1, 10)]
        np.testing.assert_allclose(a[1], b[1], rtol=1e-6)
        np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-4)
    scores = [rows_by_step(result, "score/validation") for result in (one, two)]
    np.testing.assert_allclose(*[list(s.values()) for s in scores], atol=2e-3)
    for part in ("encoder", "decoder", "head"):
        a, b = (load_file(r / "model" / f"{part}.safetensors") for r in (one, two))
        for key, value in a.items():
            bound = torch.full((), 1e-4) + 1e-5 * b[key].abs()
            if key.endswith("running_mean"):
                # A mean adds up over a layer's inputs what rounding did to each weight; 60 steps
                # left up to 6.7e-4 of the activations' standard deviation, 4.1e-5 in weights.
                bound = 1e-3 * a[key.replace("_mean", "_var")].sqrt()
            assert ((value - b[key]).abs() <= bound).all(), key

    both = begun(stopped, *asked)
    both.send_signal(signal.SIGTERM)  # to the first process alone: it tells the other
    _, err = finished(both, Exit.TERMINATED)
    assert err.count("go on with: situs finetune --resume") == 1
    again = ("finetune", "--resume", stopped, "--devices", 1)
    assert "batch_size × devices: was 4, now 2" in here(Exit.REFUSED, *again)
    here(Exit.DONE, *again, "--batch-size", 4, "--quiet")
    a, b = rows_by_step(one, "loss/total"), rows_by_step(stopped, "loss/total")
    assert list(a) == list(b)
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-4)


def test_a_process_that_dies_ends_the_finetuning_with_one_message(
    settings: Path, tmp_path: Path
) -> None:
    result = tmp_path / "result"
    both = begun(result, "--config", settings, "--devices", 2, "--steps", 9000, "--quiet")
    children = Path(f"/proc/{both.pid}/task/{both.pid}/children").read_text().split()
    assert len(children) == 1
    os.kill(int(children[0]), signal.SIGKILL)
    _, err = finished(both, Exit.FAILED)
    assert err.count("error:") == 1
    assert "process 1 of 2 was killed by SIGKILL" in err
    assert "Go on with --resume" in err
    assert not (result / "result.json").exists()
    assert list(result.glob("state/state-*.ckpt")), "what was computed is kept"
