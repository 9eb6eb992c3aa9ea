"""Whole steps: where one ends, how to stop after it, how to give up one that was broken off."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from situs.tensors import copy_all
from situs.training.stopping import StopSignals


class SteppedModule(pl.LightningModule):
    """A module that says whether its optimiser's step is under way.

    Attributes:
        updating: True from the clipping of gradients to the end of the step: parameters are of no
            step.
        spoiled: 1 on the device once a step was not finite and is still to be given up; None
            where every step is looked at before the next one begins.
    """

    updating: bool = False
    spoiled: Tensor | None = None

    def offending(self, number: int) -> dict[str, Any]:
        """All that the step with batch ``number`` depends on but the network's state.

        ``stage``, ``config``, ``batch`` and the ``scans`` of each of its samples, and what else
        the stage needs to take the step again.
        """
        raise NotImplementedError


class StepRollback(pl.Callback):
    """Knows whether the network is that of a finished step, and brings it back to one.

    Running statistics and queues change in the forward pass, before the loss is known to be
    finite and long before the optimiser's step. They are copied when a step begins (with batches
    accumulated: its first batch), so that a state saved on an error is that of the last finished
    step, and the run continues from it as if nothing had happened. Parameters change only in the
    optimiser's step; who breaks in there leaves a network that is of no step.

    Stands first among the callbacks: the others ask it. The module is a
    :class:`SteppedModule`. Buffers must be changed in place, as all
    of torch's are.

    Attributes:
        whole: False from the first batch of a step until its end.
    """

    def __init__(self) -> None:
        self.whole = True
        self._step = 0
        self._buffers: list[Tensor] = []
        self._kept: list[Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make room for the copies."""
        self._buffers = list(pl_module.buffers())
        self._kept = [buffer.clone() for buffer in self._buffers]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep what the step is about to change."""
        if self.whole:
            assert isinstance(pl_module, SteppedModule)
            values, flag = self._buffers, pl_module.spoiled
            if flag is not None:
                pairs = zip(self._kept, values, strict=True)
                values = [torch.where(flag > 0, kept, value) for kept, value in pairs]
            copy_all(self._kept, values)
            self._step = trainer.global_step
            self.whole = False

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """The step is whole, unless more batches belong to it."""
        assert isinstance(pl_module, SteppedModule)
        self.whole = trainer.global_step > self._step
        pl_module.updating = False

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Give up the step that was broken off."""
        assert isinstance(pl_module, SteppedModule)
        if not self.whole and not pl_module.updating:
            self.restore()

    def restore(self) -> None:
        """Put back what was kept."""
        copy_all(self._buffers, self._kept)
        self.whole = True


class StopBetweenSteps(pl.Callback):
    """Ends the training after a whole step in all processes, when one of them was asked to.

    Stands before the callbacks that save: they save where ``trainer.should_stop``.

    Args:
        stops: What was asked for.
        whole: Whether the network is that of a finished step.
    """

    def __init__(self, stops: StopSignals, whole: Callable[[], bool] = lambda: True) -> None:
        self.stops, self.whole = stops, whole

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over from Lightning, which gives them back at its end."""
        self.stops.install()
        self.stops.gentle = True

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Ask all processes."""
        if not self.whole():
            return
        asked = int(self.stops.received or 0)
        if trainer.world_size > 1:
            flag = torch.tensor(asked, device=pl_module.device)
            dist.all_reduce(flag, dist.ReduceOp.MAX)
            asked = int(flag)
        if asked:
            self.stops.received = signal.Signals(asked)
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on nothing waits for a step."""
        self.stops.gentle = False

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Likewise."""
        self.stops.gentle = False
