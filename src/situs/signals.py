"""SIGTERM as an exception, so that a command ends by it as by Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from situs.errors import Terminated

# Who ends a job may tell a process and then its group: that is one wish and not two.
_SAME_S = 1.0


class Wishes:
    """Tells a wish to end from the echo of one."""

    def __init__(self) -> None:
        self._heard = float("-inf")

    def is_new(self) -> bool:
        """Whether the signal that came now is not one that came just before, sent once more."""
        before, self._heard = self._heard, time.monotonic()
        return self._heard - before > _SAME_S


@contextmanager
def unwinding() -> Iterator[None]:
    """Let SIGTERM raise, while the context lasts: what is half written goes, something is said.

    Raises:
        Terminated: Wherever the main thread is when the signal comes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wishes = Wishes()

    def end(_number: int, _frame: Any) -> None:
        if wishes.is_new():
            raise Terminated

    handler = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler if handler is not None else signal.SIG_DFL)
