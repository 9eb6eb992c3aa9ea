"""Kernels that the losses of a method start around its network, counted without a GPU.

``python -m benchmarks.launches [WORD …]``, for rows of ``benchmarks.gpu`` at their full size under
bf16 autocast; by default those of small networks, which start kernels as fast as the host can.
Counted is what torch dispatches, forward and backward, but for views and memory that is only asked
for: about one kernel each on a GPU, where a convolution starts several. ``network`` are the calls
of backbone and heads alone, ``losses`` all else; the optimiser is left out.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from benchmarks import gpu
from torch.utils._python_dispatch import TorchDispatchMode

from situs.geometry import lines
from situs.methods import passes

USUAL = ("sal", "planes", "dino")
STARTS_NOTHING = ("empty", "new_empty", "_unsafe_view", "promote_types")


class Watching(TorchDispatchMode):
    """Sees every operation that torch dispatches while active, and what it gives."""

    def seen(self, func: Any, out: Any) -> None:
        """One of them; for classes derived."""
        raise NotImplementedError

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """One operation."""
        out = func(*args, **(kwargs or {}))
        self.seen(func, out)
        return out


class Dispatched(Watching):
    """Counts operations while active."""

    count = 0

    def seen(self, func: Any, out: Any) -> None:
        """Count it, unless nothing is started by it."""
        space, _, name = func.name().partition("::")
        self.count += space == "aten" and not (func.is_view or name.startswith(STARTS_NOTHING))


def dispatched(run: Callable[[], object]) -> int:
    """Operations of a call."""
    with Dispatched() as counter:
        run()
    return counter.count


def as_on_a_gpu() -> None:
    """Under autocast, and no parts that fit a processor's cache."""
    gpu.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    passes._AT_ONCE, lines._BLOCK_BYTES = {}, 2**40


def main() -> None:
    """One line a row."""
    warnings.simplefilter("ignore")
    as_on_a_gpu()
    scan = gpu.noise(small=False)
    print(f"{'':22s} network  losses")
    for row in gpu.ROWS:
        if any(word in row.name for word in sys.argv[1:] or USUAL):
            step = gpu.Step(row, scan, small=False)
            network, loss = dispatched(step.network()), dispatched(step.loss)
            print(f"{row.name:22s}{network:8d}{loss - network:8d}", flush=True)


if __name__ == "__main__":
    main()
