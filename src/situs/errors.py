"""Errors that a user can act on: each names the thing, what is wrong and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

_OPTIONS: ContextVar[Mapping[str, str] | None] = ContextVar("options", default=None)


@contextmanager
def speaking(options: Mapping[str, str]) -> Iterator[None]:
    """Let errors speak of options of a command instead of settings.

    Args:
        options: Setting → option, for instance ``{"train": "--labels"}``. Settings without an
            option are given as ``--set name=value``.
    """
    token = _OPTIONS.set(options)
    try:
        yield
    finally:
        _OPTIONS.reset(token)


def setting(name: str) -> str:
    """What the interface in use calls a setting: ``'train'`` in Python, ``--labels`` in a shell."""
    options = _OPTIONS.get()
    if options is None:
        return f"'{name}'"
    return options.get(name) or (f"--set {name}" if "settings" in options else f"'{name}'")


class SitusError(Exception):
    """Base of every error that situs raises on purpose; the CLI prints it without a traceback."""


class ConfigError(SitusError):
    """A configuration that cannot be used; lists every problem with its dotted key at once."""


class ScanRefused(SitusError):
    """A scan that must not enter a run.

    Args:
        reason: A stable code such as ``"empty-file"`` (see ``situs.scans.refusals.REASONS``),
            for tables and tests.
        path: The file or folder, as the user named it.
        detail: What exactly is wrong with this one, free of header text that could identify a
            patient.
    """

    def __init__(self, reason: str, path: str | Path, detail: str) -> None:
        self.reason = reason
        self.path = Path(path)
        self.detail = detail
        super().__init__(f"{self.path.name}: {detail} [{reason}]")

    def __reduce__(self) -> tuple[type[ScanRefused], tuple[str, Path, str]]:
        # Exceptions cross process borders in the parallel catalog; the default would pass only
        # the formatted message.
        return (type(self), (self.reason, self.path, self.detail))


class StoreError(SitusError):
    """A store that is missing, damaged, or made with other settings than those asked for."""


class RunError(SitusError):
    """A run folder that cannot be used as asked (absent, not empty, of another configuration)."""


class TransferError(SitusError):
    """Weights that do not fit the network they were asked to fill."""


class NonFiniteLoss(SitusError):
    """A loss term became NaN or infinite; names the term and the scans of the batch.

    Attributes:
        batch: Number of the batch from the start of the training: the step, but where several
            batches make a step.
    """

    def __init__(self, term: str, scans: list[str], step: int, batch: int | None = None) -> None:
        self.term, self.scans, self.step = term, scans, step
        self.batch = step if batch is None else batch
        super().__init__(
            f"loss term '{term}' is not finite at step {step}; scans in the batch: "
            f"{', '.join(scans)}. The last good state is saved. Look at these scans with "
            "'situs scan', or lower the learning rate."
        )

    def saved(self, command: str) -> None:
        """Say which command shows where in the step it began."""
        self.args = (f"{self} Where in the step it began says: {command}",)


class NotWritten(SitusError):
    """A disk is full, or takes nothing for another reason; what was whole is whole."""


class ProcessFailed(SitusError):
    """Another process of the same run failed, and with it the run.

    Attributes:
        speaks: Whether this process is the one to say so though it is not the first: that one is
            gone.
    """

    def __init__(self, message: str, speaks: bool = False) -> None:
        super().__init__(message)
        self.speaks = speaks


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a training between two steps; says how to go on.

    A :class:`KeyboardInterrupt`, so that whoever calls situs stops as at any other Ctrl-C.
    """


class Terminated(SystemExit):
    """A signal to end (SIGTERM, a scheduler's warning) was followed; by trainings between steps.

    A :class:`SystemExit`: a script that does nothing about it ends with ``code``, and a shell's
    ``&&`` goes no further.

    Args:
        message: What was saved and how to go on; empty where who catches it knows.
        saved: Whether there is a state to go on from.
    """

    SAVED, UNSAVED = 75, 143

    def __init__(self, message: str = "", saved: bool = False) -> None:
        self.status = self.SAVED if saved else self.UNSAVED
        super().__init__(self.status)
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Fault:
    """What a check found wrong; not raised, so that a check goes on.

    Attributes:
        file: The file's path, or that of the folder that it is missing from.
        what: What is wrong and what to do.
    """

    file: str
    what: str


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, whatever its type, says that memory was used up."""
    words = ("out of memory", "can't allocate memory", "not enough memory", "signal: killed")
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(word in said for word in words)


def not_writable(error: BaseException | None) -> bool:
    """Whether an error, or one that it stems from, says that a disk takes nothing more."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
    words = ("no space left", "disk quota", "file too large", "failed writing file")
    while error is not None:
        said = str(error).lower()
        if isinstance(error, NotWritten) or any(word in said for word in words):
            return True
        if isinstance(error, OSError) and error.errno in full:
            return True
        error = error.__cause__ or error.__context__
    return False


def require(package: str, extra: str) -> None:
    """Raise a helpful :class:`SitusError` where an optional package is absent.

    Args:
        package: Import name.
        extra: The extra of situs that installs it.
    """
    import importlib.util  # noqa: PLC0415 - only on this path

    if importlib.util.find_spec(package) is None:
        raise SitusError(f"'{package}' is not installed. Try: pip install 'situs[{extra}]'")
