"""Steps whose loss or gradient is not finite: found out at once, or without waiting for a GPU.

On a CPU every step looks. A GPU would have to be waited for twice a step, so there the look is
left to the steps that log, observe or save. What is not finite must spoil nothing until then: a
number on the device, 0 until the first such step and 1 from it on, lets the optimiser skip its
update (as after an overflow under fp16), the average stand still and the copies of buffers stay
those from before the step. At the look the run is then wound back to that step, as if the ones
after it had not been taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from situs.errors import NonFiniteLoss
from situs.training import engine
from situs.training.steps import StepRollback

if TYPE_CHECKING:
    from situs.pretraining.module import Pretraining

GRADIENT = "gradient"


def looks_later(device: torch.device, precision: str) -> bool:
    """Whether steps are looked at later: on a GPU whose optimiser can skip by itself.

    Under fp16 the scaler meets infinite gradients by design and skips them in its own way.
    """
    return device.type == "cuda" and engine.precision(precision) != "16-mixed"


class Spoiled:
    """Which batch was the first whose numbers were not finite, known to the device alone.

    Attributes:
        flag: 1 from that batch on, else 0; what the optimiser calls ``found_inf``.
    """

    def __init__(self, device: torch.device) -> None:
        self.flag = torch.zeros((), device=device)
        self._batch = torch.full((), -1, dtype=torch.long, device=device)
        self._term = self._batch.clone()
        self._names: list[str] = []

    def note(self, values: Mapping[str, Tensor], batch: int) -> None:
        """Look at the values of one batch, numbered from the start of the run."""
        if self._names != [*values, GRADIENT]:
            self._names = [*values, GRADIENT]
        wrong = ~torch.isfinite(torch.stack(list(values.values())))
        self._keep(wrong.any(), wrong.int().argmax(), batch)

    def note_gradient(self, norm: Tensor, batch: int) -> None:
        """Look at the norm of a gradient."""
        self._keep(~torch.isfinite(norm), len(self._names) - 1, batch)

    def asked(self) -> tuple[str, int] | None:
        """Name of the value and number of the batch, or None; waits for the device."""
        if not bool(self.flag):
            return None
        return self._names[int(self._term)], int(self._batch)

    def _keep(self, wrong: Tensor, term: Tensor | int, batch: int) -> None:
        first = wrong & (self.flag == 0)
        self._batch.copy_(torch.where(first, batch, self._batch))
        self._term.copy_(torch.where(first, term, self._term))
        self.flag.copy_(torch.maximum(self.flag, wrong.to(self.flag)))


class FiniteSteps(pl.Callback):
    """Looks at what a GPU knows of steps that are not finite, and winds the run back.

    Stands behind whoever may end the training, before whoever logs or saves.

    Args:
        steps: Holds the buffers from before the step.
        schedules: Steps between two looks; one is due where any of them says so.
    """

    def __init__(self, steps: StepRollback, schedules: Sequence[int]) -> None:
        self.steps = steps
        self.schedules = [every for every in schedules if every]

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look before anything is written that rests on the steps so far.

        Raises:
            NonFiniteLoss: Naming the value, the scans and the step.
        """
        step = trainer.global_step
        due = any(step % every == 0 for every in self.schedules)
        if self.steps.whole and (due or step == trainer.max_steps or trainer.should_stop):
            error = self._settled(trainer, pl_module)
            if error is not None:
                raise error

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Wind back before the state is saved, whatever the run is ended by."""
        self._settled(trainer, pl_module)

    def _settled(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> NonFiniteLoss | None:
        module: Pretraining = pl_module  # type: ignore[assignment]
        found = module.finiteness.asked() if module.finiteness is not None else None
        if module.spoiled is None or found is None:
            return None
        term, batch = found
        module.spoiled.zero_()
        step = batch // module.config.optimiser.accumulate
        self.steps.restore()
        module.updating = False
        wind_back(trainer, step)
        return NonFiniteLoss(term, module.scans_of(batch), step, batch)


def wind_back(trainer: pl.Trainer, step: int) -> None:
    """Let a trainer's counts and learning rates be those after ``step`` steps.

    Network and optimiser must be those of that step already.
    """
    loop = trainer.fit_loop.epoch_loop
    progress = loop.automatic_optimization.optim_progress.optimizer.step.total
    progress.ready = progress.completed = step
    for config in trainer.lr_scheduler_configs:
        schedule: Any = config.scheduler
        schedule.last_epoch, schedule._step_count = step, step + 1
        schedule._last_lr = [
            base * factor(step)
            for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        ]
        for group, rate in zip(schedule.optimizer.param_groups, schedule._last_lr, strict=True):
            group["lr"] = rate
