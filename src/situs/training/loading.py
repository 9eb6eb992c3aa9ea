"""A loader whose processes are watched: one that stands still or dies is named with its scans."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data._utils import signal_handling

from situs.errors import ProcessFailed
from situs.orphans import end_with_parent
from situs.training.packing import Packed, collate_packed, unpacked
from situs.training.stopping import leave_signals_to_the_trainer

LIMIT_S = 600.0
"""Seconds that a batch may be waited for: a file system or a decoder that hangs ends then."""


class UnderWay:
    """What each loader process is drawing now, in memory that all processes see.

    Args:
        workers: Loader processes.
    """

    def __init__(self, workers: int) -> None:
        self._items: Tensor = torch.full((max(1, workers),), -1).share_memory_()

    def begin(self, item: int) -> None:
        """This process draws from an item."""
        if (worker := get_worker_info()) is not None:
            self._items[worker.id] = item

    def done(self) -> None:
        """It has drawn."""
        self.begin(-1)

    def items(self) -> list[int]:
        """Items that processes are at, or were when they died."""
        return [int(item) for item in self._items.unique() if item >= 0]


class WatchedLoader(DataLoader[Any]):
    """A loader that says of which scans it waits in vain.

    Args:
        dataset: Of samples.
        named: Names of what is being drawn from when a process stands still or dies.
        workers: Loader processes; without any, the trainer itself waits, unwatched.
        limit_s: Seconds that a batch may be waited for.
        options: Of ``DataLoader``.
    """

    def __init__(
        self,
        dataset: Any,
        named: Callable[[], Sequence[str]],
        workers: int,
        *,
        limit_s: float = LIMIT_S,
        **options: Any,
    ) -> None:
        # A data set without a batch size draws whole batches, which nothing collates.
        packs = workers > 0 and options.get("batch_size", 1) is not None
        super().__init__(
            dataset,
            num_workers=workers,
            timeout=limit_s if workers else 0,
            worker_init_fn=_begin_process,
            collate_fn=collate_packed if packs else None,
            **options,
        )
        self._named, self._limit_s = named, limit_s

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Batches.

        Yields:
            What the workers collated.

        Raises:
            ProcessFailed: Where a process has died, or gives no batch in time; names the scans.
        """
        batches = super().__iter__()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                why = self._why(str(error))
                if why is None:
                    raise
                names = ", ".join(self._named()[:5])
                _kill(batches)
                at = f" while it read {names}" if names else ""
                raise ProcessFailed(
                    f"a loader process {why}{at}. The last whole step is saved; look at this with "
                    "'situs scan', or go on with --resume"
                ) from None
            yield unpacked(batch) if isinstance(batch, Packed) else batch

    def _why(self, said: str) -> str | None:
        if "timed out after" in said:
            return f"gave no batch for {self._limit_s:g} s"
        return "died" if "exited unexpectedly" in said or "killed by signal" in said else None


def _begin_process(worker: int) -> None:
    end_with_parent()
    leave_signals_to_the_trainer(worker)


def _kill(batches: Any) -> None:
    """End processes that may be stopped, and hear no milder signal."""
    workers = getattr(batches, "_workers", ())
    if workers and getattr(batches, "_worker_pids_set", False):
        # Else torch's handler raises at whatever is done when they end.
        signal_handling._remove_worker_pids(id(batches))  # type: ignore[attr-defined]
        batches._worker_pids_set = False
    for process in workers:
        process.kill()
