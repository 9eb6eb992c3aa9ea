"""Whether the trainings inside a call show how far they are; what they tell is logged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_SILENT: ContextVar[bool] = ContextVar("situs_silent", default=False)


@contextmanager
def silenced(wanted: bool) -> Iterator[None]:
    """No progress is shown inside, if so ``wanted`` here or by a caller."""
    before = _SILENT.set(_SILENT.get() or wanted)
    try:
        yield
    finally:
        _SILENT.reset(before)


def is_silent() -> bool:
    """Whether nothing is to be shown."""
    return _SILENT.get()
