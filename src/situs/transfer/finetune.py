"""``situs.finetune``: carry an encoder over to a task with few labels, and score it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import nn

from situs.backbones import Backbone
from situs.config import load_config, validate
from situs.cores import look
from situs.errors import ConfigError, setting
from situs.evaluation.metrics import Summary
from situs.files import check_writable
from situs.locks import holding
from situs.methods.distributed import alone
from situs.ranks import is_first
from situs.splits.split import Split
from situs.store import Preprocessing
from situs.training.meeting import Group
from situs.training.processes import together
from situs.training.run import MetricsFile
from situs.training.shown import silenced
from situs.training.states import States
from situs.training.stopping import StopSignals, stop_signals, stopped
from situs.transfer.cases import Cohort, PreparedCase
from situs.transfer.config import FinetuneConfig
from situs.transfer.evaluate import evaluate, validation_score
from situs.transfer.features import slice_axis_of
from situs.transfer.folder import STATE, check_folder, enter_folder, leave_folder, left_in
from situs.transfer.laterality import with_flips
from situs.transfer.losses import loss_of
from situs.transfer.model import Model, Task, assemble, initialise, starting_point
from situs.transfer.observation import observe_segmentation
from situs.transfer.patches import PatchSampler
from situs.transfer.result import OBSERVATION, RESULT, Result, defined
from situs.transfer.splits import choose, described
from situs.transfer.training import Finetuning, ValidationCheckpoint, fit
from situs.version import __version__
from situs.weights import beginning
from situs.weights.ledger import Ledger

_LOG = logging.getLogger(__name__)


def finetune(
    config: Mapping[str, Any] | str | Path | FinetuneConfig,
    *,
    overrides: Sequence[str] = (),
    cohort: Cohort | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> Result:
    """Fine-tune on few labelled cases and score on held-out ones.

    Args:
        config: A mapping, the path of a YAML file, or a :class:`FinetuneConfig`.
        overrides: ``key.path=value`` strings.
        cohort: The data set of ``config.data``, already opened with ``config.dataset``; many
            fine-tunings that share one pay for preparation once. Its preprocessing must be that
            of this fine-tuning.
        resume: Go on with the fine-tuning in ``out``, training and test, to the same numbers as
            an uninterrupted one; a finished one is left as it is.
        quiet: No progress.

    Returns:
        The result; everything it says is also in ``config.out``.

    Raises:
        ConfigError: If the configuration cannot be used, or does not fit the data.
        RunError: If ``out`` is in use by another process, is not empty and neither ``overwrite``
            nor ``resume`` was said, holds ``data`` or ``init``, or cannot be resumed: with other
            settings or data than it was begun with, or without a whole state.
        TransferError: If the weights do not fit.
        ScanRefused: If a case of any part cannot be read, or its label does not belong to it;
            before the training.
        NonFiniteLoss: If a loss term or the gradient stops being finite; names the cases of the
            batch, which is kept for ``situs replay``.
        Interrupted: After Ctrl-C, when the step under way is whole and saved.
        Terminated: After SIGTERM likewise.
    """
    config = load_config(FinetuneConfig, config, overrides)
    with ExitStack() as stack:
        if is_first():
            check_writable(config.out, folder=True)
            stack.enter_context(holding(config.out, "situs finetune"))
        if resume and (config.out / RESULT).is_file():
            return Result.open(config.out)
        if is_first():
            check_folder(config, resume)
        stack.enter_context(silenced(quiet))
        stops = stack.enter_context(stop_signals(partial(left_in, config.out)))
        group = stack.enter_context(together(config.devices, config.num_nodes, config.accelerator))
        return _finetune(config, cohort, resume, group, stops)


def _finetune(
    config: FinetuneConfig,
    cohort: Cohort | None,
    resume: bool,
    group: Group,
    stops: StopSignals,
) -> Result:
    """One process's part: all train, the first one writes, validates and tests."""
    clock = _Clock()
    with isolate_rng(), _threads(config):
        _, card = starting_point(config.init, config.backbone, channels=1)
        cohort = _cohort(config, cohort, card.preprocessing)
        config = _settled(config, cohort, card.method)
        split = choose(cohort, config.train, config.validation, config.test, config.seed)
        if is_first():
            _LOG.info(described(split, cohort))
        model, ledger, pretrained = _model(config, cohort, split)
        # Only now: weights that do not fit must not cost an earlier result.
        resolved = _resolved(config, model.task, cohort)
        if group.first:
            enter_folder(resolved, split, cohort, resume)
        group.in_turn(lambda: None)  # from here on the folder is this training's
        if ledger is not None and is_first():
            _LOG.info(ledger.told())
        clock.lap("prepare")
        checkpoint = _train(config, model, cohort, split, pretrained, group, stops)
        clock.lap("train")

        def finish() -> Result:
            if not group.first:
                return Result.open(config.out)
            return _scored(config, model, cohort, split, ledger, checkpoint, clock)

        return group.in_turn(finish)


def _scored(
    config: FinetuneConfig,
    model: Model,
    cohort: Cohort,
    split: Split,
    ledger: Ledger | None,
    checkpoint: ValidationCheckpoint,
    clock: _Clock,
) -> Result:
    """Save the model, test it, and write the result."""
    with alone():
        if config.save_model:
            # Before the test: whatever goes wrong there must not cost the training.
            model.save(config.out / "model")
        summary = evaluate(config, model.to_device(), cohort, split.test)
        clock.lap("test")
        result = _result(config, model, split, ledger, checkpoint, summary, clock.laps)
        if config.task == "segmentation":
            observe_segmentation(model, cohort, result).save(config.out / OBSERVATION)
    result.save()
    leave_folder(result.folder)
    return result


def _cohort(config: FinetuneConfig, cohort: Cohort | None, carded: Mapping[str, Any]) -> Cohort:
    preprocessing = config.preprocessing or validate(Preprocessing, carded)
    cohort = cohort or Cohort.open(config.data, preprocessing, config.dataset)
    expected = cohort.settled(preprocessing)
    if cohort.preprocessing.of_voxels() != expected.of_voxels():
        raise ConfigError(
            f"the cohort was prepared with {cohort.preprocessing!r}, but this fine-tuning needs "
            f"{expected!r}; open another cohort, or set {setting('preprocessing')}"
        )
    if cohort.dataset.task != config.task:
        raise ConfigError(f"{config.data} has labels for {cohort.dataset.task}, not {config.task}")
    wanted = config.class_weights
    if wanted is not None and len(wanted) != len(cohort.classes):
        raise ConfigError(
            f"{setting('class_weights')} has {len(wanted)} numbers, the data set "
            f"{len(cohort.classes)} classes: {list(cohort.classes.values())}"
        )
    return cohort


def _settled(config: FinetuneConfig, cohort: Cohort, method: str) -> FinetuneConfig:
    """The configuration with flips that the data and the pretext task bear."""
    classes = list(cohort.classes.values())
    augmentation, why = with_flips(config.augmentation, classes, cohort.names, method)
    if is_first():
        _LOG.info(why)
    return config.model_copy(update={"augmentation": augmentation})


def _model(
    config: FinetuneConfig, cohort: Cohort, split: Split
) -> tuple[Model, Ledger | None, list[nn.Module]]:
    train = cohort.load(split.train)
    backbone, source = starting_point(config.init, config.backbone, train[0].image.shape[0])
    # The same seed gives the same head, whatever was built or drawn before.
    torch.manual_seed(config.seed)
    network = assemble(backbone, config.task, len(cohort.classes))
    axis = slice_axis_of(network.backbone, train)
    if axis is not None and config.slice_axis != "auto":
        axis = config.slice_axis
    patch_size = _patch_size(config, network.backbone, axis, train)
    ledger: Ledger | None = None
    pretrained: list[nn.Module] = []
    if config.init != "none":
        ledger, pretrained = initialise(
            network, config.init, config.load_decoder, config.allow_partial
        )
    # All cases are read before the first step, but after what is quick to check: a bad one must not
    # cost the training.
    channels = cohort.channels((*split.train, *split.validation, *split.test))
    task = Task(
        kind=config.task,
        classes=cohort.classes,
        multi_label=cohort.dataset.multilabel,
        patch_size=patch_size,
        slice_axis=axis,
        overlap=config.overlap,
        flip_axes=config.augmentation.flips if config.test_flips else (),
        preprocessing=cohort.preprocessing,
        modalities=tuple(channel.modality for channel in channels),
        intensity=tuple(channel.intensity for channel in channels),
    )
    card = source.model_copy(
        update={
            "backbone": backbone,
            "preprocessing": task.preprocessing.model_dump(mode="json"),
            "view_size": task.patch_size,
            "step": config.steps,
            "decoder_trained": config.task == "segmentation",
            "outside": "background",
            "began": None if ledger is None else beginning(config.init, ledger),
        }
    )
    return Model(network, task, card), ledger, pretrained


def _patch_size(
    config: FinetuneConfig, backbone: Backbone, axis: int | None, train: Sequence[PreparedCase]
) -> tuple[int, ...]:
    dims = backbone.spatial_dims
    if config.patch_size is not None:
        if len(config.patch_size) != dims:
            raise ConfigError(
                f"{setting('patch_size')} must have {dims} numbers, got {config.patch_size}"
            )
        backbone.check_size(config.patch_size)
        return config.patch_size
    limit = 96 if dims == 3 else 256
    axes = [a for a in range(3) if a != axis]
    median = np.median([[case.shape[a] for a in axes] for case in train], axis=0)
    cells = [
        max(1, math.ceil(min(n, limit) / d))
        for n, d in zip(median.tolist(), backbone.divisor, strict=True)
    ]
    if math.prod(cells) < backbone.min_coarse_voxels:
        cells = [2] * dims
    return tuple(n * d for n, d in zip(cells, backbone.divisor, strict=True))


def _train(
    config: FinetuneConfig,
    model: Model,
    cohort: Cohort,
    split: Split,
    pretrained: Sequence[nn.Module],
    group: Group,
    stops: StopSignals,
) -> ValidationCheckpoint:
    own = slice(group.rank * config.batch_size, (group.rank + 1) * config.batch_size)
    sampler = PatchSampler(
        cohort.load(split.train),
        model.task.framing,
        config.batch_size * config.world_size,
        config.augmentation,
        config.foreground_share,
        config.seed,
        own,
    )
    several = model.task.multi_label
    loss = loss_of(config.task, config.loss, config.class_weights, several)
    answer: Literal["label", "target"] = "label" if config.task == "segmentation" else "target"
    module = Finetuning(model.network, loss, config, answer, pretrained)
    module.built = {
        "backbone": model.card.backbone.model_dump(mode="json"),
        "classes": len(cohort.classes),
        "multi_label": several,
    }
    metrics = MetricsFile(config.out / "metrics.csv")

    def score() -> float:
        return validation_score(model, cohort.stream(split.validation))

    checkpoint = ValidationCheckpoint(metrics, score if split.validation else None, config)
    states = States(config.out / STATE)
    step = fit(module, sampler, checkpoint, config.out, states, stops)
    if stops.received is not None and not checkpoint.ended:
        raise stopped(stops, left_in(config.out), step)
    checkpoint.take_best(module.model)
    return checkpoint


def _result(
    config: FinetuneConfig,
    model: Model,
    split: Split,
    ledger: Ledger | None,
    checkpoint: ValidationCheckpoint,
    summary: Summary,
    seconds: dict[str, float],
) -> Result:
    numbers = [(p.numel(), p.requires_grad) for p in model.network.parameters()]
    return Result(
        folder=config.out,
        task=config.task,
        init=config.init,
        method=model.card.method,
        scores=defined(summary["mean"]),
        classes={name: defined(row) for name, row in summary.items() if name != "mean"},
        split=asdict(split),
        ledger=ledger,
        best_step=checkpoint.best_step,
        validation_score=checkpoint.best_score,
        seconds=seconds,
        parameters={
            "total": sum(n for n, _ in numbers),
            "trained": sum(n for n, trained in numbers if trained),
        },
        situs_version=__version__,
    )


def _resolved(config: FinetuneConfig, task: Task, cohort: Cohort) -> FinetuneConfig:
    """What was done, not what was left open."""
    found = {"preprocessing": cohort.preprocessing, "patch_size": task.patch_size}
    if task.slice_axis is not None:
        found["slice_axis"] = task.slice_axis
    return config.model_copy(update=found)


@contextmanager
def _threads(config: FinetuneConfig) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or look().threads(config.devices))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class _Clock:
    """Seconds of each stage."""

    laps: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.perf_counter)

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self.last = round(now - self.last, 2), now
