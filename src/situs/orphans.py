"""Processes that end with the one that started them, however that one ends.

``python -m situs.orphans MODULE`` runs a module so from its first moment on: the imports of the
module take seconds in which its parent may die.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from multiprocessing.connection import wait

PARENT = "SITUS_PARENT"
"""Environment variable of a module that is run here: the process that started it."""

_PR_SET_PDEATHSIG = 1
_LOOK_S = 1.0


def end_with_parent(parent: int | None = None) -> None:
    """Let this process end when its parent is gone: killed, too, when nobody can tell it.

    On Linux the kernel sees to it, even while a decoder holds the interpreter's lock: by the
    death of the parent, and by the end of the pipe that multiprocessing keeps to who wanted the
    process, since the parent of a pool's worker is a server that lives as long as the worker.
    Elsewhere a thread watches.

    Args:
        parent: Who started this process, where that is not a process of multiprocessing; it may
            be gone already, when imports have taken long.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if (starter := multiprocessing.parent_process()) is not None:
            _end_with_pipe(starter.sentinel)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _end_with_pipe(end: int) -> None:
    """Let the kernel end this process when the other end of a pipe is closed."""
    import fcntl  # noqa: PLC0415 - absent on Windows

    fcntl.fcntl(end, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(end, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(end, fcntl.F_SETFL, fcntl.fcntl(end, fcntl.F_GETFL) | os.O_ASYNC)


def _watch(parent: int | None) -> None:
    starter = multiprocessing.parent_process()
    if starter is not None:
        wait([starter.sentinel])
    elif parent is not None:
        while os.getppid() == parent:
            time.sleep(_LOOK_S)
    else:
        return
    os._exit(1)


def main() -> None:
    """Run the module that is named, unless its parent is gone already."""
    parent = int(os.environ[PARENT])
    if os.getppid() == parent:
        end_with_parent(parent)
        runpy.run_module(sys.argv[1], run_name="__main__")


if __name__ == "__main__":
    main()
