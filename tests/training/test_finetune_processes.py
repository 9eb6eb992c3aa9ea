"""A fine-tuning in two processes is the one of a single process on the joined batch."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from situs.cli.exits import Exit
from situs.transfer.check import check_result

SHAPE = (18, 16, 12)
STEPS = 60


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YAML file of a small fine-tuning with batch normalisation and weighted classes."""
    folder = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for case in range(6):
        label = np.zeros(SHAPE, np.uint8)
        x, y, z = rng.integers(2, 8, 3)
        label[x : x + 6, y : y + 6, z : z + 4] = 1
        label[x : x + 3, y : y + 6, z : z + 4] = 2
        image = (rng.normal(0, 0.3, SHAPE) + 3 * label).astype(np.float32)
        nib.save(nib.Nifti1Image(100 * image + 500, np.eye(4)), folder / f"images/c{case}.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / f"labels/c{case}.nii.gz")
    file = folder.parent / "finetune.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "data": str(folder),
                "train": 3,
                "validation": 1,
                "test": 2,
                "steps": STEPS,
                "validate_every": 20,
                "checkpoint_every": 10,
                "patch_size": [16, 16, 8],
                "class_weights": [0.5, 2.0, 1.0],
                "threads": 1,
                "precision": 32,
                "lr": 1e-4,
                "backbone": {"name": "cnn", "options": {"channels": [4, 8], "norm": "batch"}},
            }
        )
    )
    return file


def start(*words: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "situs", "finetune", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str], code: int) -> tuple[str, str]:
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    return out, err


def rows(result: Path, column: str) -> dict[int, float]:
    with (result / "metrics.csv").open() as file:
        found = [(int(row["step"]), row.get(column)) for row in csv.DictReader(file)]
    return {step: float(value) for step, value in found if value}


def test_two_processes_finetune_as_one_and_one_goes_on_where_two_stood(
    settings: Path, tmp_path: Path
) -> None:
    one, two, stopped = tmp_path / "one", tmp_path / "two", tmp_path / "stopped"
    asked = ("--config", settings, "--batch-size", 2, "--devices", 2)
    ended(start("--config", settings, "--batch-size", 4, "--out", one, "--quiet"), Exit.DONE)

    out, err = ended(start(*asked, "--out", two, "--json"), Exit.DONE)
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

    both = start(*asked, "--out", stopped)
    end = time.monotonic() + 180
    while not list(stopped.glob("state/state-*.ckpt")) and time.monotonic() < end:
        time.sleep(0.05)
    both.send_signal(signal.SIGTERM)  # to the first process alone: it tells the other
    _, err = ended(both, Exit.TERMINATED)
    assert err.count("go on with: situs finetune --resume") == 1
    _, err = ended(start("--resume", stopped, "--devices", 1), Exit.REFUSED)
    assert "batch_size × devices: was 4, now 2" in err
    ended(start("--resume", stopped, "--devices", 1, "--batch-size", 4, "--quiet"), Exit.DONE)
    a, b = rows(one, "loss/total"), rows(stopped, "loss/total")
    assert list(a) == list(b)
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-4)


def test_a_process_that_dies_ends_the_finetuning_with_one_message(
    settings: Path, tmp_path: Path
) -> None:
    result = tmp_path / "result"
    both = start(
        *("--config", settings, "--devices", 2, "--out", result, "--steps", 9000, "--quiet"),
    )
    end = time.monotonic() + 180
    while not list(result.glob("state/state-*.ckpt")) and time.monotonic() < end:
        time.sleep(0.05)
    children = Path(f"/proc/{both.pid}/task/{both.pid}/children").read_text().split()
    assert len(children) == 1
    os.kill(int(children[0]), signal.SIGKILL)
    _, err = ended(both, Exit.FAILED)
    assert err.count("error:") == 1
    assert "process 1 of 2 ended with code -9" in err
    assert not (result / "result.json").exists()
    assert list(result.glob("state/state-*.ckpt")), "what was computed is kept"
