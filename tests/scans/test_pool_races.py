"""Processes of a pool that end at the moment when nobody looks cost only their item."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from crashing import dead, deaf_until_killed, late, minus_one, slow_square, square

from situs.scans.parallel import isolated_map

pytestmark = pytest.mark.slow


def test_what_is_handed_out_after_the_pool_broke_is_not_lost() -> None:
    """A process dies while whoever asked is busy with an earlier result."""
    results = {}
    for item, result in isolated_map(square, [1, 7, 2, 3], crashed=minus_one, workers=1):
        results[item] = result
        end = time.monotonic() + 10
        while len(results) == 1 and multiprocessing.active_children() and time.monotonic() < end:
            time.sleep(0.1)
    assert results == {1: 1, 7: -1, 2: 4, 3: 9}


def test_no_process_starts_beside_the_thread_that_watches_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else one that dies before the thread looks again is waited for, and one that starts while
    the pool breaks is waited for or an error.
    """
    start, started = ProcessPoolExecutor._spawn_process, []

    def spawn(pool: Any) -> None:
        started.append(pool._executor_manager_thread)
        start(pool)

    monkeypatch.setattr(ProcessPoolExecutor, "_spawn_process", spawn)
    found = dict(isolated_map(square, range(1, 9), crashed=minus_one, workers=3))
    assert found == {n: -1 if n == 7 else n * n for n in range(1, 9)}
    assert len(started) >= 3
    assert set(started) == {None}
    started.clear()
    assert dict(isolated_map(square, [2], crashed=minus_one, workers=3)) == {2: 4}
    assert len(started) == 1, "as many as there is work for"
    assert not dict(isolated_map(square, [], crashed=minus_one, workers=3))


def test_a_broken_pool_does_not_wait_for_a_process_that_takes_no_notice(tmp_path: Path) -> None:
    items = [tmp_path / "deaf", tmp_path / "dies"]
    found = isolated_map(
        deaf_until_killed, items, crashed=dead, timed_out=late, limit_s=10.0, workers=2
    )
    assert {item.name: result for item, result in found} == {"deaf": "late", "dies": "dead"}


def test_who_wants_no_more_waits_for_nothing() -> None:
    """Ctrl-C in a scan: what is queued is not begun, and a decoder that hangs is not waited for."""
    found = isolated_map(slow_square, [1, *[7] * 20], crashed=minus_one, workers=1)
    assert next(found) == (1, 1)
    start = time.monotonic()
    found.close()
    assert time.monotonic() - start < 30  # an hour each otherwise
    assert not multiprocessing.active_children()
