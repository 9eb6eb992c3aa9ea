"""Cores: what quotas leave, what neighbours leave, and what is made of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from situs import cores
from situs.cores import Cores, _quotas, sleep_when_idle


def test_threads_follow_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert Cores(8, 7.8).threads() == 8
    assert Cores(8, 3.1).threads() == 3
    assert Cores(8, 0.1).threads() == 2  # a share is always there
    assert Cores(1, 0.0).threads() == 1
    assert Cores(8, 8).threads(processes=2) == 4
    assert Cores(2, 0.0).threads(processes=2) == 1
    assert Cores(2, 0.0).why() == "chosen by what is free"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert Cores(8, 8).threads() == 5
    assert Cores(8, 8).why() == "as OMP_NUM_THREADS says"


@pytest.mark.parametrize("version", [1, 2])
def test_the_smallest_quota_around_a_process_counts(tmp_path: Path, version: int) -> None:
    inner = tmp_path / ("cpu" if version == 1 else "") / "job/step"
    inner.mkdir(parents=True)
    for folder, quota in ((inner.parent, 150_000), (inner, -1 if version == 1 else "max")):
        if version == 1:
            (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
            (folder / "cpu.cfs_period_us").write_text("100000\n")
        else:
            (folder / "cpu.max").write_text(f"{quota} 100000\n")
    own = tmp_path / "own"
    own.write_text("4:cpu:/job/step\n3:memory:/x\n" if version == 1 else "0::/job/step\n")
    assert _quotas(tmp_path, own) == [1.5]


def test_a_neighbour_is_seen() -> None:
    """Pinned to one core beside a process that burns it, little of it is free."""
    script = (
        "import os, subprocess, sys; core = min(os.sched_getaffinity(0));"
        "os.sched_setaffinity(0, {core});"
        "other = subprocess.Popen([sys.executable, '-c', 'while True: pass']);"
        "import time; time.sleep(1);"
        "from situs.cores import look; c = look(); other.kill(); print(c.allowed, c.free)"
    )
    allowed, free = subprocess.check_output([sys.executable, "-c", script], text=True).split()
    assert float(allowed) <= 1
    assert float(free) < 0.5


def test_what_the_user_set_stays() -> None:
    environment = {"OMP_WAIT_POLICY": "active"}
    sleep_when_idle(environment)
    assert environment["OMP_WAIT_POLICY"] == "active"
    assert environment["KMP_BLOCKTIME"] == "0"
    assert environment["OPENBLAS_THREAD_TIMEOUT"] == "4"


def test_the_command_line_says_so_before_torch_is_there() -> None:
    script = (
        "import sys, situs.cli, os; assert 'torch' not in sys.modules;"
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    said = subprocess.check_output([sys.executable, "-c", script], text=True, env=environment)
    assert said.strip() == "passive"
    assert cores.allowed_cores() > 0
