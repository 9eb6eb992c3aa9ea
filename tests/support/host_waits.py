"""Whether a step makes the host wait for a device: asked of a device where there is one.

Where there is none, tensors of torch's ``meta`` device stand in: they have no values, so whatever
asks for one fails, and every copy from the host passes by where it can be counted.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "meta")


class _NoAutocast:
    """``torch.autocast`` knows no meta device."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: Any) -> None: ...


class _Copies(TorchDispatchMode):
    """Notes what brings numbers from the host to the device by waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        devices = {t.device.type for t in tensors if t.ndim or t.device.type != "cpu"}
        made = "lift_fresh" in str(func)  # of a list or a number
        moved = kwargs.get("device") is not None and devices == {"cpu"}
        moved = moved and torch.device(kwargs["device"]) == DEVICE
        if made or len(devices) > 1 or (moved and not kwargs.get("non_blocking")):
            at = [f for f in traceback.extract_stack() if "situs" in f.filename][-1]
            self.found.append(f"{func} at {Path(at.filename).name}:{at.lineno}")
        return func(*args, **kwargs)


@contextmanager
def _watched() -> Iterator[list[str]]:
    if DEVICE.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield []
        finally:
            torch.cuda.set_sync_debug_mode("default")
    else:
        with pytest.MonkeyPatch.context() as patched, _Copies() as copies:
            patched.setattr(torch, "autocast", _NoAutocast)
            yield copies.found


def assert_never_waits(step: Callable[[], object]) -> None:
    """Fail where ``step`` waits for :data:`DEVICE`, naming the line; its first run may."""
    with pytest.MonkeyPatch.context() as patched:
        if DEVICE.type == "meta":
            patched.setattr(torch, "autocast", _NoAutocast)
        step()
    with _watched() as found:
        step()
    assert found == []
