"""Configuration of a pretraining run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_serializer,
    model_validator,
)

from situs.backbones.base import BackboneConfig
from situs.config import Accelerator, Config, Precision, Seed, Strategy
from situs.errors import ConfigError, setting
from situs.methods import method_class
from situs.methods.config import under
from situs.places import spelled, url_of
from situs.pretraining.teacher import TeacherConfig
from situs.store import Preprocessing, Store
from situs.store.cache import REMOTE_SCANS


class OptimiserConfig(Config):
    """AdamW with linear warm-up and cosine decay; norms and biases are not decayed.

    Attributes:
        lr: Peak learning rate.
        weight_decay: Of AdamW.
        warmup_steps: Steps in which the rate rises to its peak.
        final_lr: Fraction of ``lr`` that is left at the last step.
        gradient_clip: Largest norm of the gradient of all parameters.
        accumulate: Batches whose gradients make one step.
    """

    lr: PositiveFloat = 1e-3
    weight_decay: float = Field(0.05, ge=0)
    warmup_steps: NonNegativeInt = 50
    final_lr: float = Field(0.01, ge=0, le=1)
    gradient_clip: PositiveFloat = 1.0
    accumulate: PositiveInt = 1


ControlTimes = Literal["last", "every", "never"]


class PretrainConfig(Config):
    """Everything that decides a pretraining run.

    Attributes:
        method: A method, or a composition such as ``spatial+s2dc``.
        data: A store, or paths of scans that are prepared into ``out/store`` first. A store may
            lie behind a URL that fsspec reads.
        out: The run folder.
        options: The method's own options; for a composition under each method's name.
        weights: Weight of each part of a composition.
        uncertainty: Learn the weights of a composition.
        backbone: Network and size; ``spatial_dims`` follows the method.
        preprocessing: Used where ``data`` is not a store yet.
        optimiser: AdamW and its schedule.
        teacher: The moving average of the network.
        steps: Optimiser steps.
        batch_size: Samples a step and device.
        seed: Seed of everything random.
        precision: ``"auto"`` takes bf16 or fp16 mixed precision on a GPU that has it.
        workers: Loader processes of each device; 0 loads in the main process, ``"auto"`` takes as
            many as measured times of samples and steps ask for, and as cores are free.
        threads: Torch threads of each device; 0 takes the cores that are free.
        devices: Devices of each machine; on a CPU, processes.
        num_nodes: Machines, started by srun or torchrun.
        strategy: How many devices train one network: ``"ddp"`` (a copy on each), which is also
            what ``"auto"`` takes for more than one.
        accelerator: ``"auto"`` takes a GPU where there is one.
        compile: Compile the encoder with ``torch.compile``.
        held_out: Share of the patients whose scans are only observed, never trained on. Scans of
            one patient, study or file, and near-duplicates, never stand on both sides; with fewer
            than five such groups all scans are on both.
        observe_samples: Samples of each observation.
        observe_every: Steps between observations; 0 observes only at the end.
        observe_controls: At which observations the network also looks at scans without anatomy,
            is held against an untrained one, and the reach of each loss term is measured.
        checkpoint_every: Steps between checkpoints.
        log_every: Steps between rows of the metrics file.
        loggers: Also ``"wandb"`` (offline unless WANDB_MODE=online) or ``"mlflow"`` (a folder of
            the run unless MLFLOW_TRACKING_URI is set); extras of the same names.
    """

    method: str = "spatial"
    data: Path | tuple[Path, ...]
    out: Path
    options: dict[str, Any] = Field(default_factory=dict)
    weights: dict[str, float] = Field(default_factory=dict)
    uncertainty: bool = False
    backbone: BackboneConfig = Field(default_factory=BackboneConfig)
    preprocessing: Preprocessing = Field(default_factory=Preprocessing)
    optimiser: OptimiserConfig = Field(default_factory=OptimiserConfig)
    teacher: TeacherConfig = Field(default_factory=TeacherConfig)
    steps: PositiveInt = 1000
    batch_size: PositiveInt = 4
    seed: Seed = 0
    precision: Precision = "auto"
    workers: NonNegativeInt | Literal["auto"] = 1
    threads: NonNegativeInt = 0
    devices: PositiveInt = 1
    num_nodes: PositiveInt = 1
    strategy: Strategy = "auto"
    accelerator: Accelerator = "auto"
    compile: bool = False
    held_out: float = Field(0.1, ge=0, lt=1)
    observe_samples: PositiveInt = 32
    observe_every: NonNegativeInt = 250
    observe_controls: ControlTimes = "last"
    checkpoint_every: PositiveInt = 250
    log_every: PositiveInt = 10
    loggers: tuple[Literal["wandb", "mlflow"], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _start_from_preset(cls, given: Any) -> Any:
        """What the method's preset says of the run, where nothing else is given."""
        if not isinstance(given, Mapping) or not isinstance(given.get("options"), Mapping):
            return given
        name = str(given.get("method", cls.model_fields["method"].default))
        options = given["options"].get(name, given["options"])
        if "+" in name or not isinstance(options, Mapping) or not options.get("preset"):
            return given
        # A name that no preset has is refused where the method reads its options.
        preset = method_class(name).Config.presets.get(str(options["preset"]))
        return under(preset.run, given) if preset else given

    @field_serializer("data", when_used="json")
    def _with_urls(self, data: Path | tuple[Path, ...]) -> str | list[str]:
        return [*map(spelled, data)] if isinstance(data, tuple) else spelled(data)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where the data lie, be it one place or several."""
        return self.data if isinstance(self.data, tuple) else (self.data,)

    @property
    def world_size(self) -> int:
        """Devices in all."""
        return self.devices * self.num_nodes


def check_data_there(config: PretrainConfig, mode: str) -> None:
    """Refuse paths that are not there, unless a run goes on with a store of its own.

    Raises:
        ConfigError: With the paths.
        Unreachable: If a store's URL does not answer.
    """
    for path in config.paths:
        if url_of(path) is not None and (len(config.paths) > 1 or not Store.is_store(path)):
            raise ConfigError(f"{setting('data')}: {REMOTE_SCANS.format(spelled(path))}")
    absent = [str(path) for path in config.paths if url_of(path) is None and not path.exists()]
    if absent and not (mode == "resume" and Store.is_store(config.out / "store")):
        raise ConfigError(f"{setting('data')} is not there: {', '.join(absent)}")
