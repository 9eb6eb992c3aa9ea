"""Processes end with the one that started them, and one that stands still is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny

from situs.errors import ProcessFailed
from situs.methods.composition import compose
from situs.orphans import PARENT
from situs.pretraining.data import EndlessSampler, ViewDataset, loader
from situs.studies.scheduler import WORKER
from situs.views import ArraySource

pytestmark = pytest.mark.slow

# A decoder that holds the interpreter's lock can be ended by the kernel alone.
WORK = {"asleep": "time.sleep(300)", "busy": "sum(range(10**12))"}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def soon(true: Callable[[], bool], seconds: float) -> bool:
    ends = time.monotonic() + seconds
    while not true():
        if time.monotonic() > ends:
            return False
        time.sleep(0.05)
    return True


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found |= {child} | descendants(child)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("work", WORK)
def test_a_pool_ends_with_its_killed_parent(tmp_path: Path, work: str) -> None:
    at_work = tmp_path / "at-work"
    at_work.mkdir()
    (tmp_path / "work.py").write_text(
        f"import os, time\nFOLDER = {str(at_work)!r}\n"
        "def wait(_):\n    open(f'{FOLDER}/{os.getpid()}', 'w').close()\n"
        f"    {WORK[work]}\n"
    )
    code = (
        "import work; from situs.scans.parallel import isolated_map; "
        "list(isolated_map(work.wait, range(4), crashed=lambda i: None, workers=2))"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    try:
        assert soon(lambda: len(list(at_work.iterdir())) == 2, 600)
        children = descendants(process.pid)
        assert {int(file.name) for file in at_work.iterdir()} <= children
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert soon(lambda: not any(map(alive, children)), 120), children


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_worker_whose_study_died_while_it_imported_does_nothing(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, f"{tmp_path}\n".encode())  # the job that it must not begin
    environment = {**os.environ, PARENT: "1"}
    done = subprocess.run(
        list(WORKER),
        stdin=read,
        env=environment,
        timeout=600,  # one that began would wait for its next job without end
        check=False,
    )
    os.close(read)
    os.close(write)
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


class Standing(ArraySource):
    """A scan whose file is on a disk that no longer answers, or whose decoder dies."""

    stop = staticmethod(lambda: time.sleep(300))

    def read(self, *args: object, **options: object) -> np.ndarray:
        self.stop()
        raise AssertionError


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        (lambda: time.sleep(300), "gave no batch for 5 s while it read"),
        (lambda: os.kill(os.getpid(), signal.SIGSTOP), "gave no batch for 5 s while it read"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "died while it read"),
    ],
    ids=["asleep", "stopped", "killed"],
)
def test_a_loader_that_stands_still_is_named(stop: Callable[[], None], said: str) -> None:
    other, *_ = tiny.smooth_sources(1, (16, 16, 16))
    bad = Standing(other.array, other.affine, key="bad")
    bad.stop = stop  # type: ignore[method-assign]
    composition = compose("simclr", {"view_size": [8, 8, 8]})
    dataset = ViewDataset([[bad]], composition, 0)
    batches = loader(dataset, EndlessSampler(0, 1), 1, {"bad": "folder/bad.nii.gz"}, limit_s=5)
    began = time.monotonic()
    with pytest.raises(ProcessFailed, match=rf"{said} folder/bad\.nii\.gz\. The last whole step"):
        next(iter(batches))
    assert time.monotonic() - began < 150, "as long as the disk is away"
