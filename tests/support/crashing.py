"""Functions that worker processes import; they must live in a module of their own."""

from __future__ import annotations

import os
import signal


def square(item: int) -> int:
    """The square; kills its process for numbers divisible by 7."""
    if item % 7 == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def minus_one(item: int) -> int:
    return -1
