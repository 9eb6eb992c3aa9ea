"""What happens around the steps: metrics, observations, checkpoints, time keeping."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from situs.methods.composition import Composition
from situs.methods.distributed import alone
from situs.methods.observing import reach_warnings
from situs.observation import Observation
from situs.pretraining.config import ControlTimes
from situs.pretraining.module import Pretraining
from situs.training.keeping import StateKeeper
from situs.training.run import MetricsFile, Run
from situs.training.states import States
from situs.training.steps import StepRollback
from situs.weights import Card, save_weights


class DataClock(pl.Callback):
    """Share of the time between steps that was spent waiting for data.

    Stands last among the callbacks, so that observing and saving do not count as waiting.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = self._idle_since = time.perf_counter()
        self._waited = 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Time since the last step ended was spent waiting for data."""
        assert isinstance(pl_module, Pretraining)
        now = time.perf_counter()
        self._waited += now - self._idle_since
        pl_module.data_wait_share = self._waited / max(1e-9, now - self._start)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """From here on the trainer waits."""
        self._idle_since = time.perf_counter()


class MetricsLogger(pl.Callback):
    """Metrics file, loggers and training time."""

    def __init__(self, run: Run, log_every: int, steps: StepRollback) -> None:
        self.run, self.log_every, self.steps = run, log_every, steps
        self.seconds_before = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Continue the metrics of a resumed run."""
        self.metrics = MetricsFile(self.run.path / "metrics.csv", trainer.global_step)
        self._start = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log the step's terms at the schedule."""
        assert isinstance(pl_module, Pretraining)
        step = trainer.global_step
        if not self.steps.whole or (step % self.log_every and step != trainer.max_steps):
            return
        values = averaged(pl_module.latest)
        values["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        values["seconds"] = self.seconds
        values["data_wait_share"] = pl_module.data_wait_share
        pl_module.progress["loss"] = (values["loss/total"], "")
        for name, score in pl_module.step_scores.items():
            if score.better is not None:
                shown = name.replace("_", " ").replace("/", " ")
                pl_module.progress[f"batch {shown}"] = (values[f"step/{name}"], score.unit)
        self.write(trainer, step, values)

    @property
    def seconds(self) -> float:
        """Training time, that of resumed parts included."""
        return self.seconds_before + time.perf_counter() - self._start

    def write(self, trainer: pl.Trainer, step: int, values: dict[str, float]) -> None:
        """To the metrics file and every logger."""
        if not trainer.is_global_zero:
            return
        self.metrics.add(step, values)
        self.metrics.flush()
        for logger in trainer.loggers:
            logger.log_metrics(values, step)

    def state_dict(self) -> dict[str, Any]:
        """Time spent so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.seconds_before = float(state_dict["seconds"])


def averaged(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Each value's mean over all processes, in one message."""
    together = torch.stack([value.detach().float() for value in values.values()])
    if dist.is_initialized():
        dist.all_reduce(together)
        together /= dist.get_world_size()
    return dict(zip(values, together.tolist(), strict=True))


class ObservationCallback(pl.Callback):
    """Looks at held-out samples at a schedule and at the end."""

    def __init__(
        self, run: Run, every: int, books: MetricsLogger, controls: ControlTimes = "last"
    ) -> None:
        self.run, self.every, self.books, self.controls = run, every, books, controls
        self.latest: dict[str, Observation] = {}

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Observe when due."""
        step = trainer.global_step
        due = step == trainer.max_steps or (self.every and step % self.every == 0)
        if due and self.books.steps.whole:
            self.observe(trainer, pl_module)

    def observe(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Observe now: files, metrics, progress."""
        assert isinstance(pl_module, Pretraining)
        step = trainer.global_step
        due = self.controls == "every" or (self.controls == "last" and step == trainer.max_steps)
        reach = pl_module.reach() if due else {}  # losses may gather: every process takes part
        if not trainer.is_global_zero or any(o.step == step for o in self.latest.values()):
            return
        with alone():
            observed = pl_module.observe(due)
        self.latest = {
            part: replace(
                found,
                reach=reach.get(part, ()),
                warnings=(*found.warnings, *reach_warnings(reach.get(part, ()))),
            )
            for part, found in observed.items()
        }
        prefixed = len(self.latest) > 1
        values = {}
        for part, observation in self.latest.items():
            observation.save(self.run.path / "observations" / f"{step:07d}-{part}.obs")
            for name, score in observation.scores.items():
                values[f"score/{part}/{name}" if prefixed else f"score/{name}"] = score.value
        for part, method in pl_module.composition.parts.items():
            seen = self.latest.get(part)
            monitored = seen and seen.scores.get(method.monitor)
            if monitored:
                label = f"held-out {monitored.label or monitored.name}"
                pl_module.progress[label] = (monitored.value, monitored.unit)
        if values:
            self.books.write(trainer, step, values)


class Checkpoints(StateKeeper):
    """``last`` (weights and resumable state) and ``best`` (weights), each written whole.

    ``best`` follows the monitored scores of all parts; see :func:`is_best`. Runs that observe
    only at the end have ``best`` equal to ``last``.
    """

    def __init__(
        self, run: Run, every: int, card: Card, observing: ObservationCallback, steps: StepRollback
    ) -> None:
        self.run, self.card, self.observing = run, card, observing
        super().__init__(States(self._folder("last")), every, steps)
        self.judged: list[dict[str, float]] = []
        self._judged_step = -1

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Judge each new observation, and save when due."""
        assert isinstance(pl_module, Pretraining)
        if self.steps.whole:
            self._judge(trainer, pl_module)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def beside(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The weights that the state holds."""
        self._save_weights("last", trainer, pl_module)

    def _judge(self, trainer: pl.Trainer, pl_module: Pretraining) -> None:
        if not trainer.is_global_zero or not self.observing.latest:
            return
        observations = self.observing.latest
        step = next(iter(observations.values())).step
        if step == self._judged_step:
            return
        self._judged_step = step
        self.judged.append(monitored(observations, pl_module.composition))
        if is_best(self.judged) or not self._folder("best").is_dir():
            self._save_weights("best", trainer, pl_module)

    def _save_weights(self, name: str, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Pretraining)
        card = self.card.model_copy(update={"step": trainer.global_step})
        heads = module.student.heads.state_dict()  # asked for by those who predict with them
        save_weights(self._folder(name), module.student.backbone, card, {"heads": heads})

    def _folder(self, name: str) -> Path:
        return self.run.path / "checkpoints" / name

    def state_dict(self) -> dict[str, Any]:
        """The scores so far."""
        return {"judged": self.judged, "judged_step": self._judged_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on judging."""
        self.judged, self._judged_step = state_dict["judged"], state_dict["judged_step"]


def monitored(
    observations: Mapping[str, Observation], composition: Composition
) -> dict[str, float]:
    """The monitored score of each part that has one, signed so that lower is better."""
    scores = {
        name: observations[name].scores.get(method.monitor)
        for name, method in composition.parts.items()
    }
    return {
        name: score.value if score.better == "lower" else -score.value
        for name, score in scores.items()
        if score is not None
    }


def is_best(history: Sequence[Mapping[str, float]]) -> bool:
    """Whether the latest of several observations is better than all before it.

    Each part's scores are scaled to the range that they have had so far, 0 its best and 1 its
    worst, and averaged over parts: no part decides alone, whatever its unit and its place in the
    expression. For a single part the lowest score is best. A score that is missing or not finite
    counts as the worst; where there are none at all, the latest observation is the best.

    Args:
        history: Part → score, lower is better; one mapping an observation.
    """
    parts = {part for scores in history for part in scores}
    if not parts:
        return True
    scaled = [_scaled([scores.get(part, math.nan) for scores in history]) for part in parts]
    *before, latest = (math.fsum(at_once) for at_once in zip(*scaled, strict=True))
    return all(latest < other for other in before)


def _scaled(values: Sequence[float]) -> list[float]:
    """From the lowest, 0, to the highest, 1; 1 where not finite."""
    finite = [v for v in values if math.isfinite(v)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    return [(v - low) / ((high - low) or 1.0) if math.isfinite(v) else 1.0 for v in values]
