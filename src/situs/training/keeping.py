"""Writing the states of a training while it runs."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from situs.errors import not_writable
from situs.training.states import States
from situs.training.steps import StepRollback


def count_whole_steps(checkpoint: dict[str, Any], batches: int) -> None:
    """Let the loop of a saved state count the batches of whole steps only.

    A state saved inside a step would otherwise continue out of phase; the samples of the broken
    step are drawn again.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for count in ("total", "current"):
        progress[count] = dict.fromkeys(progress[count], batches)


class StateKeeper(pl.Callback):
    """Keeps the state at a schedule, at the end, when a signal came, and whatever went wrong.

    Args:
        states: Where.
        every: Steps between states.
        steps: Knows what is a whole step.
    """

    def __init__(self, states: States, every: int, steps: StepRollback) -> None:
        self.states, self.every, self.steps = states, every, steps

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save when due."""
        step = trainer.global_step
        due = step % self.every == 0 or step == trainer.max_steps or trainer.should_stop
        if due and self.steps.whole:
            self.save(trainer, pl_module)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Keep the last whole step; where the disk took nothing, the state before it is there."""
        if not_writable(exception):
            return
        if trainer.global_step > 0 and self.steps.whole:
            self.save(trainer, pl_module)

    def save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save now; by the first process alone."""
        if not trainer.is_global_zero:
            return
        partial = self.states.partial(trainer)
        self.beside(trainer, pl_module)
        self.states.keep(partial, trainer.global_step)

    def beside(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What belongs beside a state, written before the state takes its place; here nothing."""
