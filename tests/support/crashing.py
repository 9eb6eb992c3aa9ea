"""Functions that worker processes import; they must live in a module of their own."""

from __future__ import annotations

import os
import signal
import time


def square(item: int) -> int:
    """The square; kills its process for numbers divisible by 7."""
    if item % 7 == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def minus_one(item: int) -> int:
    return -1


def slow_square(item: int) -> int:
    """The square; never ends for numbers divisible by 7, and dies for those divisible by 5."""
    if item % 7 == 0:
        time.sleep(3600)
    if item % 5 == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def minus_two(item: int) -> int:
    return -2
