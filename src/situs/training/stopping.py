"""How a training ends before its last step: between two steps, with what was computed saved."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from situs.errors import Interrupted, NonFiniteLoss, ProcessFailed, Terminated, out_of_memory
from situs.training.record import RunRecord

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
        received: The first signal, or None.
        gentle: Whether a step is waited for.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.gentle = False

    def install(self) -> dict[signal.Signals, Any]:
        """Handle the signals; returns who handled them before. Nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        wanted = [signal.SIGINT, signal.SIGTERM, *([_WARNING] if in_slurm() else [])]
        return {number: signal.signal(number, self._handle) for number in wanted}

    def _handle(self, number: int, frame: Any) -> None:
        again = self.received is not None
        self.received = signal.Signals(number)
        if self.gentle and not (again and number == signal.SIGINT):
            if number == signal.SIGINT:
                os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Terminated("terminated before the first step was done", saved=False)


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Remember signals that ask to end, while the context lasts."""
    stops = StopSignals()
    before = stops.install()
    try:
        yield stops
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


def stopped(stops: StopSignals, step: int, again: str, saved: bool) -> BaseException:
    """What to raise after a training that was asked to end.

    Args:
        stops: What was asked for.
        step: Where it stands.
        again: The command that goes on.
        saved: Whether that command finds a state.
    """
    message = f"Stopped at step {step}; {'go on' if saved else 'begin again'} with: {again}"
    if stops.received == signal.SIGINT:
        return Interrupted(message)
    return Terminated(message, saved)


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


def resume_command(verb: str, run: Path) -> str:
    """The line to type."""
    import shlex  # noqa: PLC0415 - on this path only

    return f"situs {verb} --resume {shlex.quote(str(run))}"
