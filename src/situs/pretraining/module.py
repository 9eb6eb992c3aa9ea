"""The Lightning module: one composition, one backbone, one teacher; nothing of any method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from situs.backbones.base import Backbone
from situs.errors import NonFiniteLoss
from situs.methods.base import Nets, Network, StepScore
from situs.methods.composition import (
    Composition,
    CompositionBatch,
    CompositionControls,
    looked_at,
)
from situs.observation import Observation, Reach
from situs.pretraining.config import PretrainConfig
from situs.pretraining.data import EndlessSampler, Item, ViewDataset, loader
from situs.pretraining.finite import GRADIENT, Spoiled, looks_later
from situs.pretraining.held_out import HeldOut, everywhere
from situs.pretraining.pace import workers_for
from situs.pretraining.teacher import make_teacher, momentum_at, update_teacher
from situs.training.engine import seed_generators, uncompiled
from situs.training.keeping import count_whole_steps
from situs.training.schedule import warmup_cosine
from situs.training.steps import SteppedModule

_REACH = 2  # samples: enough to see where gradients arrive


class Pretraining(SteppedModule):
    """Trains the student and averages the teacher.

    Attributes:
        progress: Latest scores, name → (value, unit), for whoever shows progress.
        data_wait_share: Share of wall time spent waiting for data.
        latest: Loss terms and scores of the latest step, detached.
        finiteness: Knows which batch was the first that was not finite, where that is asked later.
        step_scores: The latest step's scores with unit and direction.
        patients: Patient by the key of a scan.
        names: Key of a scan → the file a person would look for, for errors.
        held_out: What observations look at.
    """

    def __init__(
        self,
        config: PretrainConfig,
        composition: Composition,
        backbone: Backbone,
        train: Sequence[Item],
        held_out: Sequence[Item],
        names: Mapping[str, str] | None = None,
        patients: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.composition = composition
        self.train_items = train
        self.names, self.patients = dict(names or {}), dict(patients or {})
        self.held_out = HeldOut(config, composition, held_out, self.names)
        self.student = Network(backbone, composition.build_heads(backbone))
        self.teacher = make_teacher(self.student) if composition.uses_teacher else None
        self.progress: dict[str, tuple[float, str]] = {}
        self.data_wait_share = 0.0
        self._samples: ViewDataset | None = None
        self.latest: dict[str, Tensor] = {}
        self.step_scores: dict[str, StepScore] = {}
        self.finiteness: Spoiled | None = None

    def train_dataloader(self) -> DataLoader[Any]:
        """Samples from the step that the trainer stands at, so that a resumed run goes on."""
        dataset = ViewDataset(self.train_items, self.composition, self.config.seed)
        first = self.trainer.global_step * self.config.optimiser.accumulate
        sampler = EndlessSampler(
            first, self.config.batch_size, self.trainer.global_rank, self.trainer.world_size
        )
        self._samples = dataset
        workers = self.config.workers
        if isinstance(workers, str):
            workers = workers_for(self, dataset)
        return loader(dataset, sampler, workers, self.names)

    def on_train_start(self) -> None:
        """Step as this device does, whatever device the state was saved on."""
        optimiser = self.trainer.optimizers[0]
        for group in optimiser.param_groups:
            if self.device.type != "cpu":  # which steps in either way: a run goes on as it began
                group["fused"] = self.finiteness is not None or None
            for parameter in group["params"]:
                kept = optimiser.state.get(parameter, {})
                if "step" in kept:
                    kept["step"] = kept["step"].to(self.device if group["fused"] else "cpu")

    @property
    def left_out(self) -> int:
        """Training items whose files became unreadable, so that others took their place."""
        return 0 if self._samples is None else self._samples.left_out

    def configure_optimizers(self) -> Any:
        """AdamW, warm-up, cosine."""
        optimiser = self.config.optimiser
        decayed = [p for p in self.student.parameters() if p.requires_grad and p.ndim > 1]
        plain = [p for p in self.student.parameters() if p.requires_grad and p.ndim <= 1]
        later = looks_later(self.device, self.config.precision)
        self.finiteness = Spoiled(self.device) if later else None
        adamw = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": optimiser.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=optimiser.lr,
            # On a CPU a quarter to a third of the time of one call a tensor.
            fused=(later or self.device.type == "cpu") or None,
        )
        if self.finiteness is not None:
            self.spoiled = self.finiteness.flag
            adamw.found_inf = self.spoiled  # type: ignore[attr-defined]
        factor = warmup_cosine(optimiser.warmup_steps, self.config.steps, optimiser.final_lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(adamw, factor)
        return {"optimizer": adamw, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The composition's step under random numbers that depend only on seed and step.

        Raises:
            NonFiniteLoss: If a term stops being finite.
        """
        generator = self._seed_step(batch_idx)
        self._batch, self._batch_number = batch, self._number(batch_idx)
        result = self.composition.step(batch["views"], self.student, self.teacher, generator)
        terms = {k: v.detach() for k, v in result.losses.items()}
        if self.finiteness is not None:
            self.finiteness.note(terms, self._number(batch_idx))
        # One transfer a step, not one a term.
        elif not torch.isfinite(torch.stack(list(terms.values()))).all():
            bad = next(k for k, v in terms.items() if not torch.isfinite(v))
            raise NonFiniteLoss(bad, self._scans(batch), self.global_step, self._batch_number)
        self.latest = {f"loss/{k}": v for k, v in terms.items()}
        self.latest |= {f"step/{k}": score.value.detach() for k, score in result.scores.items()}
        self.step_scores = result.scores
        return result.losses["total"]

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm; a gradient that is not finite stops the run before it spoils weights.

        Under fp16 the scaler meets infinite gradients by design and skips the step.

        Raises:
            NonFiniteLoss: If the gradient is not finite.
        """
        norm = torch.nn.utils.clip_grad_norm_(
            self.student.parameters(), self.config.optimiser.gradient_clip
        )
        if self.finiteness is not None:
            self.finiteness.note_gradient(norm, self._batch_number)
        elif self.trainer.precision != "16-mixed" and not torch.isfinite(norm):
            raise NonFiniteLoss(
                GRADIENT, self._scans(self._batch), self.global_step, self._batch_number
            )
        self.latest["gradient_norm"] = norm
        self.updating = True  # nothing else stands between here and the optimiser

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then average the teacher, so that no checkpoint can fall between the two."""
        super().optimizer_step(*args, **kwargs)
        if self.teacher is not None:
            step = self.global_step + 1  # the trainer counts this step only afterwards
            momentum = momentum_at(self.config.teacher, step, self.config.steps)
            update_teacher(self.teacher, self.student, momentum, self.spoiled)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the loop count whole steps only."""
        count_whole_steps(checkpoint, self.global_step * self.config.optimiser.accumulate)

    @torch.no_grad()
    def observe(self, controls: bool = False) -> dict[str, Observation]:
        """Look at the held-out samples; the same ones each time.

        Args:
            controls: Also look at them without anatomy, and with an untrained network.

        Returns:
            By part; empty where no held-out scan can be read any more.

        Raises:
            StoreError: Where many of them cannot.
        """
        return self.held_out.look(lambda: self._observe(controls)) or {}

    def _observe(self, controls: bool) -> dict[str, Observation]:
        batch, items = self.held_out.samples()
        self.student.eval()
        try:
            return self.composition.observe(
                self._here(batch),
                self.student,
                self.teacher,
                items,
                self.global_step,
                self._held_against() if controls else None,
                self.patients,
            )
        finally:
            self.student.train()

    def reach(self) -> dict[str, tuple[Reach, ...]]:
        """Which share of the backbone each loss term trains, by part; in every process alike."""
        drawn = self.held_out.look(self.held_out.samples)
        if not everywhere(drawn is not None, self.device) or drawn is None:
            return {}
        batch = self._here(drawn[0])
        few = {part: {k: v[:_REACH] for k, v in views.items()} for part, views in batch.items()}
        self.student.eval()
        try:
            with uncompiled(self.student):
                return self.composition.reach(few, Nets(self.student, self.teacher))
        finally:
            self.student.train()

    def _held_against(self) -> CompositionControls:
        controls = self.held_out.controls(self.student.backbone)
        untrained = controls.untrained
        return CompositionControls(
            {control: self._here(batch) for control, batch in controls.batches.items()},
            untrained
            and Nets(
                untrained.student.to(self.device),
                untrained.teacher and untrained.teacher.to(self.device),
            ),
        )

    def _here(self, batch: CompositionBatch) -> CompositionBatch:
        moved: CompositionBatch = self.transfer_batch_to_device(batch, self.device, 0)
        return moved

    def scans_of(self, number: int) -> list[str]:
        """The scans that this process drew its batch ``number`` from."""
        return self._scans(self._drawn(number))

    def offending(self, number: int) -> dict[str, Any]:
        """As :meth:`situs.training.steps.SteppedModule.offending` says."""
        batch = self._batch if number == self._batch_number else self._drawn(number)
        backbone = self.student.backbone
        return {
            "stage": "pretrain",
            "config": self.config.model_dump(mode="json"),
            "backbone": {
                "spatial_dims": backbone.spatial_dims,
                "in_channels": backbone.in_channels,
            },
            "micro": number % self.config.optimiser.accumulate,
            "batch": batch["views"],
            "scans": self._scans_by_sample(batch),
        }

    def _drawn(self, number: int) -> dict[str, Any]:
        dataset = ViewDataset(self.train_items, self.composition, self.config.seed)
        count = self.config.batch_size
        first = (number * self.trainer.world_size + self.trainer.global_rank) * count
        samples = [dataset[sample] for sample in range(first, first + count)]
        drawn: dict[str, Any] = default_collate(samples)
        return drawn

    def _number(self, batch_idx: int) -> int:
        """Number of a batch from the start of the run."""
        accumulate = self.config.optimiser.accumulate
        return self.global_step * accumulate + batch_idx % accumulate

    def _seed_step(self, batch_idx: int) -> torch.Generator:
        """Seed the global generators (dropout) and make the step's own, alike in all processes."""
        micro = batch_idx % self.config.optimiser.accumulate
        return step_generator(
            self.config.seed, self.global_step, micro, self.global_rank, self.device
        )

    def _scans(self, batch: dict[str, Any]) -> list[str]:
        by_sample = self._scans_by_sample(batch)
        return list(dict.fromkeys(scan for scans in by_sample for scan in scans))

    def _scans_by_sample(self, batch: dict[str, Any]) -> list[list[str]]:
        items = [self.train_items[int(i)] for i in batch["item"]]
        parts = [looked_at(part, items) for part in batch["views"].values()]
        keys = [
            dict.fromkeys(source.key for sources in sample for source in sources)
            for sample in zip(*parts, strict=True)
        ]
        return [[self.names.get(key, key) for key in sample] for sample in keys]


def step_generator(
    seed: int, step: int, micro: int, rank: int, device: torch.device
) -> torch.Generator:
    """Seed the global generators (dropout) and make a step's own, alike in all processes."""
    sequence = np.random.SeedSequence([seed, step, micro, 0])
    dropout, drawn = (int(word) for word in sequence.generate_state(2))
    # Units are dropped from other samples in each process, so by other draws.
    seed_generators(dropout + rank, device)
    # Methods draw for the samples of all processes, and take those of their own.
    return torch.Generator().manual_seed(drawn)
