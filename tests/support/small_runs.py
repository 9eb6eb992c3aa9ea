"""Small trainings that are started as a user starts them: settings, processes, what they left."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from forks import Forked

from situs.pretraining.module import Pretraining
from situs.store import Preprocessing, prepare
from situs.studies.scheduler import WORKER


def pretraining(folder: Path, **changes: Any) -> Path:
    """A YAML file of a small pretraining, its store beside it."""
    (folder / "scans").mkdir()
    rng = np.random.default_rng(0)
    for subject in range(6):
        array = 100 + rng.normal(0, 30, (24, 22, 20)).cumsum(0).cumsum(1).cumsum(2) / 500
        nib.save(
            nib.Nifti1Image(array.astype(np.float32), np.eye(4)), folder / f"scans/{subject}.nii"
        )
    store = prepare([folder / "scans"], folder / "store", Preprocessing(), workers=0)
    values = {
        "method": "spatial",
        "data": str(store.path),
        "batch_size": 2,
        "devices": 2,
        "observe_every": 0,
        "observe_samples": 2,
        "checkpoint_every": 2,
        "log_every": 1,
        "workers": 0,
        "threads": 1,
        "precision": 32,  # as a number, as people write it
        "options": {"view_size": [16] * 3, "chunk_size": [6] * 3, "width": 8},
        "backbone": {"name": "cnn", "options": {"channels": [4, 8]}},
    }
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(values | changes))
    return file


def labelled(folder: Path, classes: int = 2) -> Path:
    """Six small scans with boxes in them, of one class or of two, in ``images`` and ``labels``."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for case in range(6):
        label = np.zeros((18, 16, 12), np.uint8)
        x, y, z = rng.integers(2, 8, 3)
        label[x : x + 6, y : y + 6, z : z + 4] = 1
        label[x : x + 3, y : y + 6, z : z + 4] = classes
        image = (rng.normal(0, 0.3, label.shape) + 3 * label).astype(np.float32)
        for kind, array in (("images", 100 * image + 500), ("labels", label)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / kind / f"c{case}.nii.gz")
    return folder


def finetuning(folder: Path, **changes: Any) -> Path:
    """A YAML file of a small fine-tuning with batch normalisation and weighted classes."""
    labelled(folder / "labelled")
    values = {
        "data": str(folder / "labelled"),
        "train": 3,
        "validation": 1,
        "test": 2,
        "steps": 60,
        "validate_every": 20,
        "checkpoint_every": 10,
        "patch_size": [16, 16, 8],
        "class_weights": [0.5, 2.0, 1.0],
        "threads": 1,
        "precision": 32,
        "lr": 1e-4,
        "backbone": {"name": "cnn", "options": {"channels": [4, 8], "norm": "batch"}},
    }
    file = folder / "finetune.yaml"
    file.write_text(yaml.safe_dump(values | changes))
    return file


def start(*command: Any, **environment: str) -> subprocess.Popen[str]:
    """A module (by name) or a script (by path) with its words, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *([] if isinstance(command[0], Path) else ["-m"]), *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )


def forked(*command: Any, children: int = 0, **environment: str) -> Forked:
    """The same, without what its imports cost: forked from a process that has them.

    So are as many ``children`` that it starts.
    """
    return Forked(list(map(str, command)), {**os.environ, **environment}, children)


Started = subprocess.Popen[str] | Forked


@contextmanager
def forked_workers() -> Iterator[None]:
    """Studies of this process have workers without what their imports cost."""

    def hire(command: list[str], env: dict[str, str], text: bool, **streams: Any) -> Forked:
        assert command == [*WORKER]
        assert text
        return Forked(["situs.studies.worker"], env, **streams)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "situs.studies.scheduler.subprocess", SimpleNamespace(Popen=hire, PIPE=subprocess.PIPE)
        )
        yield


def slurm(
    rank: int, job: int, *command: Any, by: Callable[..., Started] = forked, **environment: str
) -> Started:
    """What ``srun`` starts as task ``rank`` of two on one machine."""
    tasks = {
        "SLURM_JOB_ID": str(job),
        "SLURM_JOB_NAME": "situs",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "localhost",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
    }
    return by(*command, **tasks, **environment)


def free_job() -> int:
    """A job number whose port, which Lightning takes from its last three digits, is free."""
    while True:
        job = int(np.random.default_rng().integers(10_000_000, 99_999_999))
        with socket.socket() as taken:
            if taken.connect_ex(("localhost", job % 1000 + 15_000)):
                return job


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def finished(process: Started, code: int, timeout: float = 600) -> tuple[str, str]:
    """What it printed, once it has ended with that code."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"still there after {timeout} s: {process.communicate(timeout=30)}")
    assert process.returncode == code, (process.returncode, out, err)
    return out, err


@contextmanager
def failing_after(steps: int, module: type[Any] = Pretraining) -> Iterator[None]:
    """A training in this process fails when it has done so many steps."""
    step = module.training_step

    def fails(self: Any, *batch: Any) -> Any:
        if self.global_step == steps:
            raise MemoryError("made up")
        return step(self, *batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "training_step", fails)
        yield


def wait_until(there: Callable[[], bool], *needed: Started) -> None:
    """Until something is there, as long as the processes that bring it live."""
    end = time.monotonic() + 600  # one that fails ends the wait
    while time.monotonic() < end and all(process.poll() is None for process in needed):
        if there():
            return
        time.sleep(0.05)
    for process in needed:
        os.killpg(process.pid, signal.SIGKILL)
    pytest.fail(f"never there: {[process.communicate(timeout=30) for process in needed]}")


def rows(folder: Path, prefix: str = "loss/") -> list[list[float]]:
    """Of the metrics file, the columns of that prefix."""
    file = folder / "metrics.csv"
    if not file.is_file():
        return []
    with file.open() as lines:
        found = list(csv.DictReader(lines))
    return [[float(v) for k, v in row.items() if k.startswith(prefix) and v] for row in found]


def rows_by_step(folder: Path, column: str) -> dict[int, float]:
    """Of the metrics file, one column where it holds something."""
    with (folder / "metrics.csv").open() as lines:
        found = [(int(row["step"]), row.get(column)) for row in csv.DictReader(lines)]
    return {step: float(value) for step, value in found if value}


def info(run: Path) -> dict[str, Any]:
    """``run.json``."""
    return dict(json.loads((run / "run.json").read_text()))


FAILS = """
import os
from situs.pretraining.module import Pretraining as Module
step = Module.training_step
def fails(self, batch, batch_idx):
    if self.global_step == 4 and os.environ.get("RANK", os.environ.get("SLURM_PROCID", "1")) == "1":
        raise MemoryError("made up")
    return step(self, batch, batch_idx)
Module.training_step = fails
from situs.cli import main
main()
"""
"""``situs`` whose last process fails in the fifth step of a pretraining."""
