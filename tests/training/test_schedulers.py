"""Trainings that a scheduler starts: SLURM's environment, two processes of this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from situs.cli.exits import Exit
from situs.store import Preprocessing, prepare


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "scans").mkdir()
    rng = np.random.default_rng(0)
    for subject in range(6):
        array = 100 + rng.normal(0, 30, (24, 22, 20)).cumsum(0).cumsum(1).cumsum(2) / 500
        nib.save(
            nib.Nifti1Image(array.astype(np.float32), np.eye(4)), folder / f"scans/{subject}.nii"
        )
    store = prepare([folder / "scans"], folder / "store", Preprocessing(), workers=0)
    file = folder / "settings.yaml"
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
        "options": {"view_size": [16] * 3, "chunk_size": [6] * 3, "width": 8},
        "backbone": {"name": "cnn", "options": {"channels": [4, 8]}},
    }
    file.write_text(yaml.safe_dump(values))
    return file


def task(rank: int, job: int, settings: Path, run: Path, steps: int) -> subprocess.Popen[str]:
    """What ``srun`` starts as task ``rank`` of two on one machine."""
    slurm = {
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
    words = ["--config", settings, "--out", run, "--steps", steps, "--no-report", "--quiet"]
    return subprocess.Popen(
        [sys.executable, "-m", "situs", "pretrain", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **slurm},
        start_new_session=True,
    )


def free_job() -> int:
    """A job number whose port, which Lightning takes from its last four digits, is free."""
    while True:
        job = int(np.random.default_rng().integers(10_000_000, 99_999_999))
        with socket.socket() as taken:
            if taken.connect_ex(("localhost", job % 1000 + 15_000)):
                return job


def test_a_first_process_that_is_late_is_waited_for(settings: Path, tmp_path: Path) -> None:
    run, job = tmp_path / "run", free_job()
    early = task(1, job, settings, run, 3)
    time.sleep(12)
    assert early.poll() is None, early.communicate()
    other = task(0, job, settings, run, 3)
    said = [process.communicate(timeout=300) for process in (early, other)]
    assert (early.returncode, other.returncode) == (Exit.DONE, Exit.DONE), said
    info = json.loads((run / "run.json").read_text())
    assert (info["status"], info["step"], info["slurm_job"]) == ("finished", 3, str(job))
