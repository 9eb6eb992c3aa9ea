from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from situs import locks
from situs.errors import RunError
from situs.locks import NAME, holding, is_empty

HOLD = """
import os, sys, time
from situs.locks import holding
with holding(sys.argv[1], "situs pretrain"):
    child = os.fork() if len(sys.argv) > 2 else 1
    if child == 0:
        time.sleep(60)
    print(child, flush=True)
    time.sleep(60)
"""


def holder(folder: Path, *more: str) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *more], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_a_folder_in_use_is_refused_with_its_owner_and_free_when_he_is_killed(
    tmp_path: Path,
) -> None:
    process, _ = holder(tmp_path)
    message = rf"in use by process {process.pid} on {socket.gethostname()} \(situs pretrain"
    with pytest.raises(RunError, match=message), holding(tmp_path, "situs pretrain"):
        pass
    process.kill()
    process.wait()
    with holding(tmp_path, "situs pretrain"):
        assert is_empty(tmp_path)
    assert not (tmp_path / NAME).exists()


def test_children_that_outlive_their_parent_keep_nobody_out(tmp_path: Path) -> None:
    """A loader's process inherits the file; with its trainer gone it writes nothing."""
    process, child = holder(tmp_path, "with a child")
    process.kill()
    process.wait()
    try:
        with holding(tmp_path, "situs pretrain"):
            owner = json.loads((tmp_path / NAME).read_text())
            assert owner["pid"] == os.getpid()
            with pytest.raises(RunError, match="in use"), holding(tmp_path, "situs pretrain"):
                pass
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("held", [True, None])
def test_on_a_network_the_time_of_the_lock_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: bool | None
) -> None:
    """Another machine's lock cannot be felt by flock where that stays on one machine."""
    monkeypatch.setattr(locks, "_flock", lambda _: held)
    owner = {"host": "elsewhere", "pid": 1, "started": "", "verb": "situs pretrain"}
    owner |= {"since": "2026-01-01 00:00:00", "token": "a"}
    (tmp_path / NAME).write_text(json.dumps(owner))
    with pytest.raises(RunError, match="process 1 on elsewhere"), holding(tmp_path, "x"):
        pass
    stale = time.time() - locks.LEASE_S - 5
    os.utime(tmp_path / NAME, (stale, stale))
    with holding(tmp_path, "x"):
        assert json.loads((tmp_path / NAME).read_text())["host"] == socket.gethostname()


def test_where_nothing_can_be_held_the_process_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_flock", lambda _: None)
    with holding(tmp_path, "x"):
        with pytest.raises(RunError, match=f"process {os.getpid()}"), holding(tmp_path, "y"):
            pass
        record = json.loads((tmp_path / NAME).read_text())
        # The same number, given to another process since.
        (tmp_path / NAME).write_text(json.dumps({**record, "started": "1"}))
        with holding(tmp_path, "y"):
            pass


def test_a_damaged_lock_keeps_nobody_out_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"\x00{")
    with holding(tmp_path, "x"), holding(tmp_path / "new" / "deep", "x"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["new"]
    assert not (tmp_path / "new" / "deep").exists()


def test_many_that_come_at_once_get_in_one_by_one(tmp_path: Path) -> None:
    """Nobody ever holds a file that another has unlinked meanwhile."""
    code = """
import sys, os, time
from situs.errors import RunError
from situs.locks import holding
done = 0
while done < 25:
    try:
        with holding(sys.argv[1], "x"):
            handle = os.open(sys.argv[1] + "/inside", os.O_CREAT | os.O_EXCL)
            os.close(handle)
            os.unlink(sys.argv[1] + "/inside")
            done += 1
    except RunError:
        time.sleep(0.001)
"""
    runs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(4)]
    assert [run.wait(600) for run in runs] == [0, 0, 0, 0]
