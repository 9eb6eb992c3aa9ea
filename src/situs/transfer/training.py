"""The training loop of a fine-tuning: Lightning's, with what small label counts need."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader

from situs.errors import NonFiniteLoss, setting
from situs.methods.distributed import alone, synchronise
from situs.training.engine import engine, quick_layout, quiet_engine, seed_generators
from situs.training.keeping import StateKeeper, count_whole_steps
from situs.training.loading import WatchedLoader
from situs.training.loggers import finish, loggers
from situs.training.offending import KeepOffending
from situs.training.progress import TrainingProgress
from situs.training.run import MetricsFile
from situs.training.schedule import warmup_cosine
from situs.training.states import States, step_of
from situs.training.steps import SteppedModule, StepRollback, StopBetweenSteps
from situs.training.stopping import (
    StopSignals,
)
from situs.transfer.config import FinetuneConfig
from situs.transfer.losses import Loss
from situs.transfer.networks import Classifier, Segmenter
from situs.transfer.optim import PullToWeights, freeze, parameter_groups
from situs.transfer.patches import Batch, PatchSampler

Model = Segmenter | Classifier
GRADIENT_CLIP = 1.0
_PULLED_TO = "pulled_to"


class Finetuning(SteppedModule):
    """One optimisation step, and who takes part in it.

    Args:
        model: Network with head.
        loss: Logits and labels to named terms.
        config: Learning rates and schedule.
        answer: Which entry of a batch the loss compares with.
        pretrained: Modules that came from weights; they rest during the head's warm-up.

    Attributes:
        built: What the network was built from, for whoever builds it again: ``backbone``,
            ``classes`` and ``multi_label``.
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
        # Made before a state is restored, which knows the weights that the training began with.
        self.pull = PullToWeights(pretrained, config.l2_sp) if config.l2_sp else None
        self.latest: dict[str, Tensor] = {}
        self.progress: dict[str, tuple[float, str]] = {}
        self.built: dict[str, Any] = {}
        self.names: Callable[[int], list[str]] = lambda number: [f"batch {number}"]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Freeze what rests at this step; validation puts all modules back into training.

        What is drawn while the step lasts (dropout) depends on the seed and the step alone, so
        that a resumed training goes on to the same numbers.
        """
        self._batch = batch
        seed_generators(step_seed(self.config.seed, self.global_step), self.device)
        warm = self.global_step >= self.config.head_warmup_steps
        for module in self.pretrained:
            freeze(module, frozen=not warm)
        if self.config.freeze_encoder:
            freeze(self.model.backbone.encoder)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Losses of one batch.

        Raises:
            NonFiniteLoss: If a term stops being finite; names the cases of the batch.
        """
        terms = self.loss(self.model(batch["image"]), batch[self.answer])
        for name, value in terms.items():
            if not bool(torch.isfinite(value)):
                raise NonFiniteLoss(name, self.names(self.global_step), self.global_step)
        self.latest = {name: value.detach() for name, value in terms.items()}
        return terms["total"]

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm; a gradient that is not finite stops the training before it spoils weights.

        From here to the step's end the parameters are of no step. Under fp16 the scaler meets
        infinite gradients by design and skips the step.

        Raises:
            NonFiniteLoss: If the gradient is not finite; names the cases of the batch.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
        if self.trainer.precision != "16-mixed" and not torch.isfinite(norm):
            raise NonFiniteLoss("gradient", self.names(self.global_step), self.global_step)
        self.updating = True

    def offending(self, number: int) -> dict[str, Any]:
        """As :meth:`situs.training.steps.SteppedModule.offending` says."""
        return {
            "stage": "finetune",
            "config": self.config.model_dump(mode="json"),
            "built": self.built,
            "batch": self._batch,
            "scans": [[name] for name in self.names(number)],
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the loop count whole steps only; keep what the training is pulled to."""
        count_whole_steps(checkpoint, self.global_step)
        if self.pull is not None:
            checkpoint[_PULLED_TO] = self.pull.weights

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Be pulled to the same weights: a run's own may have been trained further meanwhile."""
        if self.pull is not None and _PULLED_TO in checkpoint:  # states of before have none
            self.pull.weights = checkpoint[_PULLED_TO]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with layer-wise rates, linear warm-up, cosine decay and the pull to the weights."""
        config = self.config
        groups = parameter_groups(
            self.model.backbone, self.model.head, config.lr, config.layer_decay
        )
        optimiser = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
        if self.pull is not None:
            self.pull.hold(optimiser)
        factor = warmup_cosine(config.warmup_steps, config.steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def step_seed(seed: int, step: int) -> int:
    """What a step's own random draws (dropout) begin with."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


class ValidationCheckpoint(pl.Callback):
    """Metrics file, validation, the best weights and early stopping.

    Args:
        metrics: Where losses and scores go.
        score: Validation score of a model, higher is better; None without validation.
        config: Schedule and patience.

    Attributes:
        best_step: Whose weights :meth:`take_best` takes.
        best_score: Their validation score; None without validation.
        ended: Whether the last step was done, or progress has ceased.
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
        self.ended = False
        self._without_progress = 0
        self._began = self._before = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._began = time.perf_counter() - self._before

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
            # Losses are means over devices, as gradients are.
            latest = {k: trainer.strategy.reduce(v) for k, v in pl_module.latest.items()}
            terms = {f"loss/{k}": float(v) for k, v in latest.items()}
            rate = float(trainer.optimizers[0].param_groups[0]["lr"])
            seconds = time.perf_counter() - self._began
            if trainer.is_global_zero:
                self.metrics.add(step, {**terms, "lr": rate, "seconds": seconds})
                _tell(trainer, {**terms, "lr": rate}, step)
            pl_module.progress["loss"] = (terms["loss/total"], "")
        last = step == self.config.steps
        if self.score is not None and (step % self.config.validate_every == 0 or last):
            self._validate(trainer, pl_module, self.score)
        self.ended = self.ended or last

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what was measured."""
        if trainer.is_global_zero:
            self.metrics.flush()

    def take_best(self, model: Model) -> None:
        """Put the best weights into the model."""
        if self._best:
            model.load_state_dict(self._best)

    def state_dict(self) -> dict[str, Any]:
        """All that decides how the training goes on and ends; metrics are on the disk with it."""
        self.metrics.flush()
        return {
            "best": self._best,
            "best_step": self.best_step,
            "best_score": self.best_score,
            "without_progress": self._without_progress,
            "ended": self.ended,
            "seconds": time.perf_counter() - self._began,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on."""
        self._best = state_dict["best"]
        self.best_step, self.best_score = state_dict["best_step"], state_dict["best_score"]
        self._without_progress = state_dict["without_progress"]
        self.ended, self._before = state_dict["ended"], state_dict["seconds"]

    def _validate(
        self, trainer: pl.Trainer, module: Finetuning, score: Callable[[], float]
    ) -> None:
        value = 0.0
        if trainer.is_global_zero:
            module.eval()
            with alone():
                value = score()
            module.train()
            self.metrics.add(trainer.global_step, {"score/validation": value})
            _tell(trainer, {"score/validation": value}, trainer.global_step)
        value = trainer.strategy.broadcast(value)
        module.progress["validation"] = (value, "")
        if self.best_score is None or value > self.best_score:
            self.best_score, self.best_step = value, trainer.global_step
            self._best = {k: v.detach().clone() for k, v in module.model.state_dict().items()}
            self._without_progress = 0
            return
        self._without_progress += 1
        if self.config.patience and self._without_progress >= self.config.patience:
            trainer.should_stop = self.ended = True


def fit(
    module: Finetuning,
    batches: PatchSampler,
    checkpoint: ValidationCheckpoint,
    out: Path,
    states: States,
    stops: StopSignals,
) -> int:
    """Run Lightning's loop for the configured number of steps, from a state where there is one.

    Returns:
        The step that the training stands at.
    """
    config = module.config
    quick_layout(module)
    if config.world_size > 1:
        synchronise(module)
    if config.compile:
        module.model.backbone.encoder.compile()
    module.names = batches.names
    state = _latest(states)
    if state is not None:
        batches.first = step_of(state)
        checkpoint.metrics.continue_from(batches.first)
        if _restored(module, checkpoint, state):
            return batches.first
    steps = StepRollback()
    callbacks: list[pl.Callback] = [
        steps,
        checkpoint,
        StopBetweenSteps(stops, lambda: steps.whole),
        StateKeeper(states, config.checkpoint_every, steps),
        KeepOffending(out),
        TrainingProgress(what="fine-tuning"),
    ]
    with quiet_engine():
        trainer = _trainer(config, callbacks, out)
        loader = _loader(batches, config.workers)
        try:
            trainer.fit(module, loader, ckpt_path=state, weights_only=True)
        finally:
            finish(trainer.loggers)
    return trainer.global_step


def _latest(states: States) -> Path | None:
    if not states.any():
        return None
    anew = f"To begin anew, say so with {setting('overwrite')}."
    return states.verified(anew, anew)


def _restored(module: Finetuning, checkpoint: ValidationCheckpoint, state: Path) -> bool:
    """Whether a state is that of a training that has ended, whose network is then restored."""
    saved = torch.load(state, map_location="cpu", weights_only=True)
    watched = saved["callbacks"][checkpoint.state_key]
    if not watched["ended"]:
        return False
    module.load_state_dict(saved["state_dict"])
    checkpoint.load_state_dict(watched)
    return True


def _loader(batches: PatchSampler, workers: int) -> DataLoader[Batch]:
    # Cases lie in memory: a process that stands still reads no file that could be named.
    return WatchedLoader(
        batches,
        lambda: (),
        workers,
        batch_size=None,
        pin_memory=torch.cuda.is_available(),
    )


def _tell(trainer: pl.Trainer, values: dict[str, float], step: int) -> None:
    """Give what was measured to the loggers that were asked for."""
    for logger in trainer.loggers:
        logger.log_metrics(values, step)


def _trainer(config: FinetuneConfig, callbacks: list[pl.Callback], out: Path) -> pl.Trainer:
    return pl.Trainer(
        max_steps=config.steps,
        **engine(config.devices, config.num_nodes, config.accelerator, config.precision),
        use_distributed_sampler=False,  # the sampler knows which patches are this process's
        gradient_clip_val=GRADIENT_CLIP,
        callbacks=callbacks,
        logger=loggers(config.loggers, out)[1:] if config.loggers else False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=out,
        num_sanity_val_steps=0,
    )
