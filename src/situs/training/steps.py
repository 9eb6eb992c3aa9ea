"""Whole steps: where one ends, and how to give up one that was broken off."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch import Tensor


class SteppedModule(pl.LightningModule):
    """A module that says whether its optimiser's step is under way.

    Attributes:
        updating: True from the clipping of gradients to the end of the step: parameters are of no
            step.
    """

    updating: bool = False


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
        self._buffers: list[tuple[Tensor, Tensor]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make room for the copies."""
        self._buffers = [(buffer, buffer.clone()) for buffer in pl_module.buffers()]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep what the step is about to change."""
        if self.whole:
            for buffer, kept in self._buffers:
                kept.copy_(buffer)
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
            for buffer, kept in self._buffers:
                buffer.copy_(kept)
            self.whole = True
