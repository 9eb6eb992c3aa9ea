"""How every command ends: the one table of exit codes."""

from __future__ import annotations

import shlex
import sys
from enum import IntEnum

from situs.errors import (
    Interrupted,
    NonFiniteLoss,
    ProcessFailed,
    SitusError,
    Terminated,
    not_writable,
    out_of_memory,
)


class Exit(IntEnum):
    """Exit codes; those above 128 are what shells report for a signal."""

    DONE = 0
    FAILED = 1
    REFUSED = 2
    OUT_OF_MEMORY = 71
    NOT_WRITTEN = 74
    TERMINATED = Terminated.SAVED
    INTERRUPTED = 130
    KILLED = Terminated.UNSAVED


MEANING = {
    Exit.DONE: "finished",
    Exit.FAILED: "failed on the way, or did only a part (scans refused, a check that found faults)",
    Exit.REFUSED: "not begun: an option, a setting, a file or a folder does not fit",
    Exit.OUT_OF_MEMORY: "out of memory; the last whole step is saved where there is one",
    Exit.NOT_WRITTEN: "the disk is full, or takes no files; what was finished before is whole",
    Exit.TERMINATED: "ended by SIGTERM or a scheduler's warning, state saved: queue it again",
    Exit.INTERRUPTED: "Ctrl-C; what was done is saved where there is something to go on from",
    Exit.KILLED: "ended by SIGTERM with nothing to go on from",
}


def exit_of(error: BaseException) -> Exit | None:
    """The code for an error that is told in a sentence; None for one that needs a traceback."""
    if isinstance(error, Terminated):
        return Exit(error.status)
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return Exit.INTERRUPTED
    if isinstance(error, Exception) and out_of_memory(error):
        return Exit.OUT_OF_MEMORY
    if isinstance(error, Exception) and not_writable(error):
        return Exit.NOT_WRITTEN
    if isinstance(error, NonFiniteLoss | ProcessFailed):
        return Exit.FAILED
    # A system's error that names a file is one that a user can look at.
    named = isinstance(error, OSError) and error.filename is not None
    return Exit.REFUSED if named or isinstance(error, SitusError) else None


# Verbs that, given again, do only what is missing, and the option that asks for it.
GOES_ON = {"prepare": "", "upload": "", "study": "", "audit": "", "demo": "", "predict": "--resume"}


def stopped(error: BaseException, verb: str = "", writes: bool = False) -> BaseException:
    """How a verb ended by Ctrl-C or SIGTERM says so, and what is left to do.

    Args:
        error: What unwound it; one that says more itself is what it is, unless it speaks of a
            training that is a part of what the verb goes on with.
        verb: That was at work.
        writes: Whether it has an ``--out``.
    """
    if str(error) and verb not in GOES_ON:
        return error
    by = "SIGTERM" if isinstance(error, Terminated) else "Ctrl-C"
    if verb in GOES_ON:
        words = f"what was done is kept; {left(verb)}"
    elif writes:
        words = f"nothing is left half written; {left(verb)}"
    else:
        words = "" if verb else "nothing was begun"
    said = "; ".join(filter(None, (f"stopped by {by}", words)))
    if isinstance(error, Terminated):
        return Terminated(said, saved=verb in GOES_ON)
    return Interrupted(said)


def left(verb: str) -> str:
    """What is left to do after a verb that did not come to its end."""
    if verb in GOES_ON:
        return f"go on with: {_same_command(GOES_ON[verb])}"
    return "begin again with the same command"


def _same_command(option: str) -> str:
    """The line that was typed, with an option that it may lack."""
    words = [word for word in sys.argv[1:] if not (option and word in (option, "--overwrite"))]
    return shlex.join(["situs", *words, *filter(None, [option])])


def table() -> str:
    """The codes as lines for ``situs --help``."""
    return "Exit codes: " + "; ".join(f"{code:d} {MEANING[code]}" for code in Exit) + "."
