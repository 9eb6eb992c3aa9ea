"""A parallel map in which an item that kills its process, or never ends, costs only itself."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from types import ModuleType
from typing import TypeVar

from threadpoolctl import threadpool_limits

from situs.orphans import end_with_parent

# Imported once, before workers part from their server, rather than in each of them.
_PRELOAD = [
    "situs.catalog.measure",
    "situs.scans.readers.dicom",
    "situs.scans.readers.itk",
    "situs.scans.readers.nifti",
]

LIMIT_S = 600.0
"""Seconds that reading one scan may take by default: a decoder that hangs ends then."""

_LEAVE_S = 2.0
"""Seconds that what is under way may take when nobody wants it any more."""

T = TypeVar("T")
R = TypeVar("R")


def default_workers() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def isolated_map(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    crashed: Callable[[T], R],
    timed_out: Callable[[T], R] | None = None,
    limit_s: float | None = None,
    workers: int | None = None,
    chunk: int = 1,
) -> Iterator[tuple[T, R]]:
    """Apply ``function`` to every item in other processes.

    When a process dies (a fault in a decoder, memory withdrawn by the system), or nothing ends
    for ``limit_s``, the items that were under way are tried again one by one, each alone; the one
    that kills its process again gets ``crashed(item)``, the one that takes longer than the limit
    ``timed_out(item)``, and the rest goes on.

    Args:
        function: Importable by name, and free of exceptions of its own.
        items: Picklable.
        crashed: The result of an item that ended its process.
        timed_out: The result of an item that took too long; ``crashed`` by default.
        limit_s: Seconds that one item may take; None for any time.
        workers: Processes; None for all cores, 0 for this process itself (no isolation, no limit).
        chunk: Items sent at a time.

    Yields:
        Pairs of item and result, in the order of completion.
    """
    if workers == 0:
        yield from ((item, function(item)) for item in items)
        return
    waiting = _chunks(items, chunk)
    first = list(islice(waiting, default_workers() if workers is None else workers))
    count, waiting = len(first), chain(first, waiting)
    suspects: list[T] = []
    more = bool(first)
    while more:
        more = yield from _run_pool(function, waiting, count, suspects, limit_s)
        yield from _one_by_one(function, suspects, crashed, timed_out or crashed, limit_s)
        suspects.clear()


def _run_pool(
    function: Callable[[T], R],
    waiting: Iterator[list[T]],
    workers: int,
    suspects: list[T],
    limit_s: float | None,
) -> Generator[tuple[T, R], None, bool]:
    """Feed one pool until the chunks end (returns False), or it breaks or stalls (True)."""
    under_way: dict[Future[list[R]], list[T]] = {}
    taken: list[T] = []  # and not under way: a pool that broke meanwhile takes nothing
    with _pool(workers) as pool:
        try:
            while True:
                # A short queue: what is under way when the pool breaks must run again.
                while len(under_way) < 2 * workers and (taken := next(waiting, [])):
                    future = _submit(pool, function, taken)
                    under_way[future], taken = taken, []
                if not under_way:
                    return False
                done = wait(under_way, limit_s, return_when=FIRST_COMPLETED).done
                if not done:
                    _kill(pool)
                for future in done:
                    results = future.result()
                    yield from zip(under_way.pop(future), results, strict=True)
        except BrokenProcessPool:
            _kill(pool)
            suspects.extend(item for items in (*under_way.values(), taken) for item in items)
            return True
        except BaseException:  # who asked for it stops: a pool would end all that it was given
            wait([future for future in under_way if not future.cancel()], _LEAVE_S)
            _kill(pool)
            raise


def _one_by_one(
    function: Callable[[T], R],
    suspects: Sequence[T],
    crashed: Callable[[T], R],
    timed_out: Callable[[T], R],
    limit_s: float | None,
) -> Iterator[tuple[T, R]]:
    left = list(suspects)
    while left:
        with _pool(1) as pool:
            try:
                while left:
                    result = _submit(pool, function, left[:1]).result(limit_s)
                    yield left.pop(0), result[0]
            except BrokenProcessPool:
                item = left.pop(0)
                yield item, crashed(item)
            except TimeoutError:
                _kill(pool)
                item = left.pop(0)
                yield item, timed_out(item)


def _kill(pool: ProcessPoolExecutor) -> None:
    """End all processes, also one deaf to SIGTERM, which a pool that broke would wait for."""
    # From Python 3.14 on this is pool.kill_workers(); before, the processes have no public name.
    for process in list(pool._processes.values()):
        process.kill()


def _submit(
    pool: ProcessPoolExecutor, function: Callable[[T], R], items: list[T]
) -> Future[list[R]]:
    """Hand out items; the first time this is also when the pool starts its processes.

    A new process imports the script that started it, which would run the script again where it
    has no ``if __name__ == "__main__"``. Ours need nothing of it, so they find it empty.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        return pool.submit(_apply, function, items)
    finally:
        sys.modules["__main__"] = script


def _begin_process(environment: dict[str, str]) -> None:
    end_with_parent()
    # The server of processes has the environment that there was when it was started, perhaps
    # without what tells where to copy and who may read (TMPDIR, AWS_PROFILE).
    os.environ.clear()
    os.environ.update(environment)
    # There is a process for each core already.
    threadpool_limits(1)
    # Ctrl-C is for the process that waits; workers end with it, and without tracebacks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _apply(function: Callable[[T], R], items: list[T]) -> list[R]:
    return [function(item) for item in items]


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _pool(workers: int) -> ProcessPoolExecutor:
    # Not "fork": the caller may hold threads (torch, a progress bar), whose locks a forked
    # process would keep forever.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(_PRELOAD)
    pool = ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_begin_process,
        initargs=(dict(os.environ),),
    )
    # All processes start before the thread that watches them, as where they are forked. Started
    # one by one beside it, one may die unseen, or start while the pool breaks: that was waited for
    # without end, or an error about a closed handle.
    pool._safe_to_dynamically_spawn_children = False  # type: ignore[attr-defined]
    return pool
