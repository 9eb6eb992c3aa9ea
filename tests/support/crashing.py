"""Functions that worker processes import; they must live in a module of their own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info


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


def deaf_until_killed(item: Path) -> str:
    """Never ends and takes no notice of SIGTERM, or dies as soon as the file beside is there."""
    beside = item.with_name("deaf")
    if item == beside:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        beside.touch()
        time.sleep(3600)
    while not beside.exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
    return item.name


def dead(item: Path) -> str:
    return "dead"


def late(item: Path) -> str:
    return "late"


def threads_of_blas(_: int) -> int:
    """The most threads that a product of matrices would take."""
    np.eye(2) @ np.eye(2)
    return max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
