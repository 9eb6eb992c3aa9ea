"""What the processes of one training tell each other outside the engine: turns, and who failed.

They meet in a key-value store in the first process (or torchrun's agent). There the first process
makes the run folder while the others wait; there a process that fails says so; and there each of
them shows once a second that it is alive, since one that is killed says nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from rich.console import Console
from torch._C._distributed_c10d import Store

from situs.errors import ProcessFailed, SitusError

T = TypeVar("T")

LATE = timedelta(minutes=30)
"""Until all processes have come."""

_SAY_AFTER_S, _SAY_EVERY_S = 30.0, 60.0
_POLL_S = 0.2
_BEAT_S = 1.0
_SILENT = 60  # beats that a process leaves out when it is gone, whatever the others wait for
_SUSPECT = 8  # likewise, where a connection has broken
_ECHO_S = 3.0  # for the one that failed first to say so
_READ_S = 5.0  # for the others to read it
_GRACE_S = 20.0  # for a process to come out of a step that can no longer end
_BROKEN = ("gloo", "nccl", "connection", "peer", "socket", "broken pipe")


class Group:
    """The processes of one training; by itself just this one."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._turns = 0

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def in_turn(self, action: Callable[[], T]) -> T:
        """``action`` in the first process, then in the others."""
        return action()

    def agreed(self, value: T) -> T:
        """What the first process has for ``value``, which must be a JSON value."""
        return value

    def cause(self, error: BaseException) -> BaseException:
        """``error``, or what failed elsewhere where that is all it says."""
        return error

    def before_giving_up(self, note: Callable[[ProcessFailed], None]) -> None:
        """What to do where a step cannot end and this process is about to be ended."""


class Met(Group):
    """Several processes that have met."""

    def __init__(
        self, rank: int, size: int, connect: Callable[[], Store], children: Sequence[Any]
    ) -> None:
        super().__init__(rank, size)
        self._store, self._watched = connect(), connect()
        self._children = children
        self._over = threading.Event()
        self._failure: ProcessFailed | None = None
        self._note: Callable[[ProcessFailed], None] = lambda _: None
        # The first watches all, and all watch the first.
        others = range(1, size) if rank == 0 else (0,)
        self._beats = dict.fromkeys(others, 0)
        self._missed = dict.fromkeys(others, 0)

    def in_turn(self, action: Callable[[], T]) -> T:
        """``action`` in the first process, then in the others."""
        self._turns += 1
        key = f"turn {self._turns}"
        if not self.first:
            self._until(lambda: self._store.check([key]))
        result = action()
        if self.first:
            self._store.set(key, "done")
        return result

    def agreed(self, value: T) -> T:
        """What the first process has for ``value``, which must be a JSON value."""
        self._turns += 1
        key = f"agreed {self._turns}"
        if self.first:
            self._store.set(key, json.dumps(value))
            return value
        self._until(lambda: self._store.check([key]))
        found: T = json.loads(self._store.get(key))
        return found

    def arrive(self) -> None:
        """Wait until all have come; say so when that takes long.

        Raises:
            ProcessFailed: If one of them fails meanwhile, or does not come in half an hour.
        """
        self._store.add("arrived", 1)
        began = said = time.monotonic()
        pause = _SAY_AFTER_S
        while (here := self._store.add("arrived", 0)) < self.size:
            now = time.monotonic()
            if self.first and now - said > pause:
                missing = self.size - here
                _say(f"waiting for {missing} of {self.size} processes to start")
                said, pause = now, _SAY_EVERY_S
            if now - began > LATE.total_seconds():
                raise ProcessFailed(
                    f"only {here} of {self.size} processes started within "
                    f"{LATE.total_seconds() / 60:.0f} minutes. See the scheduler's log for the "
                    "others, or ask for fewer --devices or --num-nodes."
                )
            self._raise_failure()
            time.sleep(_POLL_S)

    def watch(self) -> None:
        """Show that this process is alive, look whether others are, and end it if it cannot."""
        # Once before anything is computed: of one that never showed itself nothing is missed.
        self._beat()
        threading.Thread(target=self._watch, daemon=True).start()

    def before_giving_up(self, note: Callable[[ProcessFailed], None]) -> None:
        """What to do where a step cannot end and this process is about to be ended."""
        self._note = note

    def tell(self, error: BaseException) -> None:
        """Let the others know that this process fails; the first to say so is believed."""
        self._accuse(
            self._store, f"process {self.rank} of {self.size}: {type(error).__name__}: {error}"
        )

    def cause(self, error: BaseException) -> BaseException:
        """``error``, or what failed elsewhere where that is all it says.

        What the engine raises may only echo that another process is gone: that one has a moment
        to say what of, and where a connection broke, to show that it is still alive.
        """
        if isinstance(error, SitusError) or not isinstance(error, Exception):
            return error
        broken = any(word in str(error).lower() for word in _BROKEN)
        end = time.monotonic() + (_ECHO_S + (_SUSPECT + 4) * _BEAT_S if broken else _ECHO_S)
        while self._failure is None and time.monotonic() < end:
            self._failure = self._look(self._store)
            gone = [rank for rank, missed in self._missed.items() if missed >= _SUSPECT]
            if broken and gone and self._failure is None:
                self._accuse(self._store, self._gone(gone[0]))
            time.sleep(_POLL_S)
        return self._failure or error

    def close(self, failed: bool) -> None:
        """Part; the first process leaves last, since the meeting is in it."""
        if failed and dist.is_initialized():
            dist.destroy_process_group()  # who waits for this process comes out
        with suppress(RuntimeError):
            self._store.add("left", 1)
            end = time.monotonic() + (_READ_S if failed else _GRACE_S)
            while self.first and self._store.add("left", 0) < self.size:
                if time.monotonic() > end or not (failed or self._look(self._store) is None):
                    break
                time.sleep(0.02)
        self._over.set()
        if dist.is_initialized():
            dist.destroy_process_group()
        end_children(self._children)

    def _until(self, ready: Callable[[], bool]) -> None:
        while not ready():
            self._raise_failure()
            time.sleep(_POLL_S)

    def _raise_failure(self) -> None:
        self._failure = self._failure or self._look(self._store)
        if self._failure is not None:
            raise self._failure

    def _look(self, store: Store) -> ProcessFailed | None:
        """What is known of a failure elsewhere."""
        for number, child in enumerate(self._children, start=1):
            if child.poll() not in (None, 0):
                with suppress(RuntimeError):
                    if store.check(["failed"]):
                        break  # it could say what of
                how = _ended(child.poll())
                text = f"process {number} of {self.size} {how}. Go on with --resume"
                return ProcessFailed(text)
        try:
            if not store.check(["failed"]):
                return None
            text = store.get("failed").decode()
        except RuntimeError:
            text = self._gone(0)
        # Where the one that speaks for all is gone, the next one does.
        return ProcessFailed(text, speaks=self.rank == 1 and text == self._gone(0))

    def _accuse(self, store: Store, text: str) -> None:
        with suppress(RuntimeError):
            store.compare_set("failed", "", text)

    def _gone(self, rank: int) -> str:
        return (
            f"process {rank} of {self.size} is gone: it was killed, or its machine is. The "
            "scheduler's log may say why"
        )

    def _beat(self) -> None:
        """Show that this process is alive, and count how often others did not.

        Looks are counted and not seconds, which also pass while all of them are stopped (Ctrl-Z).
        """
        with suppress(RuntimeError):
            self._watched.add(f"beat {self.rank}", 1)
            for rank, before in self._beats.items():
                now = self._watched.add(f"beat {rank}", 0)
                # One that never was there is late, and not gone.
                self._missed[rank] = self._missed[rank] + 1 if now == before > 0 else 0
                self._beats[rank] = now
                if self._missed[rank] == _SILENT:
                    self._accuse(self._watched, self._gone(rank))

    def _watch(self) -> None:
        while not self._over.wait(_BEAT_S):
            self._beat()
            failure = self._failure or self._look(self._watched)
            if failure is None:
                continue
            self._failure = failure
            if self._come_out():
                return
            if self.first or failure.speaks:
                _say(f"error: {failure}")
                with suppress(Exception):
                    self._note(failure)
            for child in self._children:
                child.kill()
            os._exit(1)

    def _come_out(self) -> bool:
        """Whether this process ends by itself, still showing meanwhile that it is alive."""
        end = time.monotonic() + _GRACE_S
        while time.monotonic() < end:
            if self._over.wait(_BEAT_S):
                return True
            self._beat()
        return False


def end_children(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait a while, ask, wait, and end."""
    for act in (lambda _: None, subprocess.Popen.terminate, subprocess.Popen.kill):
        for child in children:
            act(child)
        end = time.monotonic() + _GRACE_S / 2
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.01, end - time.monotonic()))
        if all(child.poll() is not None for child in children):
            return


def _say(line: str) -> None:
    Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)


def _ended(code: int) -> str:
    """How a process ended that says nothing itself."""
    if code >= 0:
        return f"ended with code {code}"
    cause = ", as the system does where memory runs out" if -code == signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{cause}"
