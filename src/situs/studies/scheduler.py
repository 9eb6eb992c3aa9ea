"""Hands jobs to worker processes, as many at a time as is asked for."""

from __future__ import annotations

import itertools
import logging
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from situs.cores import sleep_when_idle
from situs.orphans import PARENT
from situs.studies.jobs import Job, JobFolders

WORKER: tuple[str, ...] = (sys.executable, "-m", "situs.orphans", "situs.studies.worker")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_LOG = logging.getLogger(__name__)

_AGAIN_S = 5.0
"""Until a job that another study process is at is looked at again."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a job: ``"started"``, ``"done"`` or ``"failed"``."""

    what: str
    job: Job
    folder: Path
    seconds: float = 0.0


class Scheduler:
    """Runs what is ready until nothing is left that could be.

    Args:
        folders: Where jobs stand.
        processes: Jobs at a time.
        threads: CPU threads each may use.
        worker: Command line of a worker.
        gpus: Dealt out to the workers in turn, so that each sees one.
    """

    def __init__(
        self,
        folders: JobFolders,
        processes: int = 1,
        threads: int = 1,
        worker: Sequence[str] = WORKER,
        gpus: Sequence[str] = (),
    ) -> None:
        self.folders, self.processes, self.worker = folders, processes, worker
        self.environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}
        sleep_when_idle(self.environment)
        self.failed: dict[str, Job] = {}
        self._gpus = itertools.cycle(gpus or ("",))
        self._idle: list[subprocess.Popen[str]] = []
        self._busy: dict[str, tuple[Job, subprocess.Popen[str], float]] = {}
        self._elsewhere: dict[str, float] = {}  # when to ask for it again

    def run(self, jobs: Callable[[], list[Job]], report: Callable[[Event], None]) -> None:
        """Carry out all ``jobs``, which is asked anew after each.

        Jobs that another study process is at are waited for, and taken over where it dies.

        A job that fails is reported and left; what does not build on it goes on. When this
        process is interrupted, the workers are ended; what they were doing can be resumed.
        """
        try:
            while True:
                for job in self._ready(jobs())[: self.processes - len(self._busy)]:
                    self._start(job)
                    report(Event("started", job, self.folders.folder(job)))
                if self._busy:
                    for event in self._wait():
                        report(event)
                elif self._elsewhere:
                    time.sleep(_AGAIN_S / 5)
                else:
                    return
        finally:
            self._end()

    def _ready(self, jobs: Sequence[Job]) -> list[Job]:
        done = {job.key for job in jobs if self.folders.result(job) is not None}
        now = time.monotonic()
        self._elsewhere = {
            key: due for key, due in self._elsewhere.items() if due > now and key not in done
        }
        taken = done | set(self._busy) | set(self.failed) | set(self._elsewhere)
        return [job for job in jobs if job.key not in taken and done.issuperset(job.needs)]

    def _start(self, job: Job) -> None:
        process = self._idle.pop() if self._idle else self._hire()
        assert process.stdin is not None
        process.stdin.write(f"{self.folders.write(job).resolve()}\n")
        process.stdin.flush()
        self._busy[job.key] = (job, process, time.perf_counter())

    def _hire(self) -> subprocess.Popen[str]:
        gpu = next(self._gpus)
        seen = {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
        return subprocess.Popen(
            list(self.worker),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**self.environment, **seen, PARENT: str(os.getpid())},
        )

    def _wait(self) -> list[Event]:
        """Wait until a job has ended, or one that is done elsewhere is to be looked at."""
        timeout = _AGAIN_S if self._elsewhere else None
        with selectors.DefaultSelector() as selector:
            for key, (_, process, _) in self._busy.items():
                assert process.stdout is not None
                selector.register(process.stdout, selectors.EVENT_READ, key)
            ended = [selected.data for selected, _ in selector.select(timeout)]
        events = []
        for key in ended:
            job, process, start = self._busy.pop(key)
            assert process.stdout is not None
            answer = process.stdout.readline().strip()
            if answer:
                self._idle.append(process)
            else:  # it died, for instance of too little memory
                process.wait()
            if answer == "taken":
                self._elsewhere[key] = time.monotonic() + _AGAIN_S
                continue
            good = answer == "done" and self.folders.result(job) is not None
            if not good:
                self.failed[key] = job
                self.folders.note_failed(job)
            seconds = time.perf_counter() - start
            what = "done" if good else "failed"
            events.append(Event(what, job, self.folders.folder(job), seconds))
        return events

    def _end(self) -> None:
        if count := len(self._busy):
            jobs = "job under way saves its" if count == 1 else f"{count} jobs under way save their"
            _LOG.info("stopping: the %s state", jobs)
        processes = [*self._idle, *(process for _, process, _ in self._busy.values())]
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self._idle.clear()
        self._busy.clear()
