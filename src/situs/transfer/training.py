"""The training loop of a fine-tuning: Lightning's, with what small label counts need."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader

from situs.errors import NonFiniteLoss
from situs.training.engine import precision, quick_layout, quiet_engine
from situs.training.run import MetricsFile
from situs.training.schedule import warmup_cosine
from situs.training.stopping import leave_signals_to_the_trainer
from situs.transfer.config import FinetuneConfig
from situs.transfer.losses import Loss
from situs.transfer.networks import Classifier, Segmenter
from situs.transfer.optim import freeze, parameter_groups
from situs.transfer.patches import Batch, PatchSampler

Model = Segmenter | Classifier


class Finetuning(pl.LightningModule):
    """One optimisation step, and who takes part in it.

    Args:
        model: Network with head.
        loss: Logits and labels to named terms.
        config: Learning rates and schedule.
        answer: Which entry of a batch the loss compares with.
        pretrained: Modules that came from weights; they rest during the head's warm-up.
    """

    def __init__(
        self,
        model: Model,
        loss: Loss,
        config: FinetuneConfig,
        answer: Literal["label", "target"],
        pretrained: Sequence[nn.Module],
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.config = config
        self.answer = answer
        self.pretrained = pretrained
        self.latest: dict[str, Tensor] = {}
        self.progress: dict[str, tuple[float, str]] = {}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Freeze what rests at this step; validation puts all modules back into training."""
        warm = self.global_step >= self.config.head_warmup_steps
        for module in self.pretrained:
            freeze(module, frozen=not warm)
        if self.config.freeze_encoder:
            freeze(self.model.backbone.encoder)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Losses of one batch."""
        terms = self.loss(self.model(batch["image"]), batch[self.answer])
        for name, value in terms.items():
            if not bool(torch.isfinite(value)):
                raise NonFiniteLoss(name, ["(training cases)"], self.global_step)
        self.latest = {name: value.detach() for name, value in terms.items()}
        return terms["total"]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with layer-wise learning rates, linear warm-up and cosine decay."""
        config = self.config
        groups = parameter_groups(
            self.model.backbone, self.model.head, config.lr, config.layer_decay
        )
        optimiser = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
        factor = warmup_cosine(config.warmup_steps, config.steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class ValidationCheckpoint(pl.Callback):
    """Metrics file, validation, the best weights and early stopping.

    Args:
        metrics: Where losses and scores go.
        score: Validation score of a model, higher is better; None without validation.
        config: Schedule and patience.

    Attributes:
        best_step: Whose weights the model has after training.
        best_score: Their validation score; None without validation.
    """

    def __init__(
        self, metrics: MetricsFile, score: Callable[[], float] | None, config: FinetuneConfig
    ) -> None:
        self.metrics = metrics
        self.score = score
        self.config = config
        self.best_step = config.steps
        self.best_score: float | None = None
        self._best: dict[str, Tensor] = {}
        self._without_progress = 0
        self._began = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log at every tenth step, validate at the schedule."""
        assert isinstance(pl_module, Finetuning)
        step = trainer.global_step
        if step % 10 == 0 or step in (1, self.config.steps):
            terms = {f"loss/{k}": float(v) for k, v in pl_module.latest.items()}
            rate = float(trainer.optimizers[0].param_groups[0]["lr"])
            seconds = time.perf_counter() - self._began
            self.metrics.add(step, {**terms, "lr": rate, "seconds": seconds})
            pl_module.progress["loss"] = (terms["loss/total"], "")
        last = step == self.config.steps
        if self.score is not None and (step % self.config.validate_every == 0 or last):
            self._validate(trainer, pl_module, self.score)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go back to the best weights."""
        assert isinstance(pl_module, Finetuning)
        if self._best:
            pl_module.model.load_state_dict(self._best)
        self.metrics.flush()

    def _validate(
        self, trainer: pl.Trainer, module: Finetuning, score: Callable[[], float]
    ) -> None:
        module.eval()
        value = score()
        module.train()
        self.metrics.add(trainer.global_step, {"score/validation": value})
        module.progress["validation"] = (value, "")
        if self.best_score is None or value > self.best_score:
            self.best_score, self.best_step = value, trainer.global_step
            self._best = {k: v.detach().clone() for k, v in module.model.state_dict().items()}
            self._without_progress = 0
            return
        self._without_progress += 1
        if self.config.patience and self._without_progress >= self.config.patience:
            trainer.should_stop = True


def fit(
    module: Finetuning,
    batches: PatchSampler,
    watch: ValidationCheckpoint,
    out: Path,
    callbacks: Sequence[pl.Callback] = (),
) -> None:
    """Run Lightning's loop for the configured number of steps."""
    config = module.config
    quick_layout(module)
    with quiet_engine():
        _trainer(config, [watch, *callbacks], out).fit(module, _loader(batches, config.workers))


def _loader(batches: PatchSampler, workers: int) -> DataLoader[Batch]:
    return DataLoader(
        batches,
        batch_size=None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=leave_signals_to_the_trainer,
    )


def _trainer(config: FinetuneConfig, callbacks: list[pl.Callback], out: Path) -> pl.Trainer:
    return pl.Trainer(
        max_steps=config.steps,
        accelerator="auto",
        devices=1,
        precision=precision(config.precision),
        gradient_clip_val=1.0,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=out,
        num_sanity_val_steps=0,
    )
