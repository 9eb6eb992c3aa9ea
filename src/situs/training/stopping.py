"""How a training ends before its last step: between two steps, with what was computed saved."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from situs.errors import (
    Interrupted,
    NonFiniteLoss,
    ProcessFailed,
    Terminated,
    not_writable,
    out_of_memory,
)
from situs.ranks import is_first
from situs.signals import Wishes
from situs.training.record import RunRecord
from situs.training.states import States

Ending = Literal["finished", "interrupted", "terminated", "out of memory", "failed"]

# What SLURM is commonly told to send some time before it takes a job's machines away:
# ``#SBATCH --signal=USR1@120``.
_WARNING = getattr(signal, "SIGUSR1", signal.SIGTERM)  # absent on Windows
_GRACE_S = 30
# A path, as far as the next space.
_PATH = re.compile(r"[^\s'\"]*[/\\][^\s'\"]+")


class StopSignals:
    """Signals that ask a training to end, remembered until a step is whole.

    Before the training begins they end the process at once. Afterwards the first one waits for
    the step under way; a second Ctrl-C does not.

    Attributes:
        received: The signal of the latest wish, or None.
        gentle: Whether a step is waited for.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.gentle = False
        self._wishes = Wishes()

    def install(self) -> dict[signal.Signals, Any]:
        """Handle the signals; returns who handled them before. Nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        wanted = [signal.SIGINT, signal.SIGTERM, *([_WARNING] if in_slurm() else [])]
        return {number: signal.signal(number, self._handle) for number in wanted}

    def _handle(self, number: int, frame: Any) -> None:
        again, new = self.received is not None, self._wishes.is_new()
        if new:
            self.received = signal.Signals(number)
        if self.gentle and not (again and number == signal.SIGINT):
            if number == signal.SIGINT and is_first():  # a terminal signals every process
                os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if new:
            raise Terminated


@contextmanager
def stop_signals(left: Callable[[], Left]) -> Iterator[StopSignals]:
    """Remember signals that ask to end, while the context lasts.

    Args:
        left: What is left to do, asked where a signal ends what comes before or after the steps.

    Yields:
        What is asked for, to be looked at after each step.

    Raises:
        Interrupted: After Ctrl-C, with what is left to do.
        Terminated: After SIGTERM, likewise.
    """
    stops = StopSignals()
    before = stops.install()
    try:
        yield stops
    except (KeyboardInterrupt, Terminated) as error:
        if str(error):  # it says so already
            raise
        if isinstance(error, KeyboardInterrupt):  # whoever handles signals here
            stops.received = signal.SIGINT
        ended = stopped(stops, left())
        raise ended from None
    except Exception as error:
        if not_writable(error):  # there is something to go on from, once there is room
            error.add_note(left().said)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def how_it_ended(error: BaseException | None, stops: StopSignals) -> Ending:
    """A word for ``run.json``."""
    if isinstance(error, Exception):
        return "out of memory" if out_of_memory(error) else "failed"
    if stops.received is not None:
        return "interrupted" if stops.received == signal.SIGINT else "terminated"
    return "finished" if error is None else "interrupted"


def stopped_by(error: BaseException | None, stops: StopSignals) -> str | None:
    """What ended a training, for ``run.json``, which is passed on: it names no scan and no path."""
    if isinstance(error, NonFiniteLoss):
        return f"NonFiniteLoss: loss term '{error.term}' at step {error.step}"
    if isinstance(error, OSError):
        return f"{type(error).__name__}: {error.strerror or 'no reason is given'}"
    if isinstance(error, ProcessFailed):
        # What another process said of its own error may name scans: its kind is enough.
        return f"ProcessFailed: {_PATH.sub('…', ': '.join(str(error).split(': ')[:2]))}"
    if isinstance(error, Exception):
        return f"{type(error).__name__}: {_PATH.sub('…', str(error))}"
    return stops.received.name if stops.received is not None else None


@dataclass(frozen=True)
class Left:
    """What is left to do after a training that was stopped.

    Attributes:
        said: In words.
        saved: Whether there is a state to go on from.
    """

    said: str
    saved: bool


def left_to_do(verb: str, folder: Path, begun: str, states: Path) -> Left:
    """What goes on with a training, or begins it again where no step was saved.

    Args:
        verb: Of the command.
        folder: Of the training.
        begun: The file in it that a training which was begun has left.
        states: Folder of its states.
    """
    if States(states).any():
        return Left(f"go on with: situs {verb} --resume {shlex.quote(str(folder))}", True)
    replacing = " and --overwrite" if (folder / begun).is_file() else ""
    return Left(f"begin again with the same command{replacing}", False)


def stopped(stops: StopSignals, left: Left, step: int | None = None) -> BaseException:
    """What to raise after a training that was asked to end.

    Args:
        stops: What was asked for.
        left: What is left to do.
        step: Where it stands, if that was in between two steps.
    """
    by_hand = stops.received == signal.SIGINT
    signalled = "Ctrl-C" if by_hand else getattr(stops.received, "name", "a signal")
    where = f"stopped by {signalled}" if step is None else f"Stopped at step {step}"
    message = f"{where}; {left.said}"
    return Interrupted(message) if by_hand else Terminated(message, left.saved)


def in_slurm() -> bool:
    """Whether this process belongs to a SLURM job."""
    return "SLURM_JOB_ID" in os.environ


def slurm_job() -> str | None:
    """The job's name for ``scontrol``, the same when it is queued again."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return (
        f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}"
        if array
        else os.environ.get("SLURM_JOB_ID")
    )


def was_requeued(record: RunRecord) -> bool:
    """Whether a run was begun by an earlier round of the SLURM job that runs now."""
    again = os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")
    return again and slurm_job() is not None and record.slurm_job == slurm_job()


def requeue(stops: StopSignals) -> bool:
    """Queue the SLURM job again after its warning signal; whether that was done.

    After SIGTERM nothing is queued: SLURM sends it to jobs that it queues again by itself, and to
    those that a person cancelled.
    """
    job, command = slurm_job(), shutil.which("scontrol")
    if stops.received != _WARNING or job is None or command is None:
        return False
    return subprocess.run([command, "requeue", job], check=False).returncode == 0


def leave_signals_to_the_trainer(_worker: int) -> None:
    """Start of a loader process: it ends with its trainer, not with the signals sent to both.

    Terminals and schedulers signal every process of a job. A loader that died of it would break
    the step that the trainer wants to finish. One that its trainer ends while it is at work leaves
    a little later, and without an error: death by a signal is one to torch, wherever it then is.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(_WARNING, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_S))
