"""One process's part of a pretraining, from the store to the trainer's end."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from situs.backbones import backbone_class
from situs.catalog.patients import one_patient_warning
from situs.config import validate
from situs.cores import look
from situs.errors import ProcessFailed, RunError
from situs.files import write_json
from situs.locks import holding
from situs.methods.composition import Composition, compose
from situs.methods.distributed import synchronise
from situs.pretraining.callbacks import Checkpoints, DataClock, MetricsLogger, ObservationCallback
from situs.pretraining.config import PretrainConfig
from situs.pretraining.data import Item, split_items
from situs.pretraining.finite import FiniteSteps
from situs.pretraining.module import Pretraining
from situs.pretraining.parts import backbone_config, build_backbone, items_of, open_store
from situs.pretraining.record import describe, describe_resumed, peak_memory_mib, records_of
from situs.splits.groups import scan_groups
from situs.store import Store
from situs.training.engine import engine, quick_layout, quiet_engine
from situs.training.folder import Mode, check_same_data, check_unchanged, make_folder
from situs.training.loggers import finish, loggers
from situs.training.meeting import Group
from situs.training.offending import KeepOffending
from situs.training.progress import TrainingProgress
from situs.training.run import Run
from situs.training.steps import StepRollback, StopBetweenSteps
from situs.training.stopping import (
    StopSignals,
    how_it_ended,
    requeue,
    stopped,
    stopped_by,
)
from situs.weights import Beginning, Card, beginning, load_into

_LOG = logging.getLogger(__name__)


def pretrain_in_group(
    run: Run,
    config: PretrainConfig,
    composition: Composition,
    mode: Mode,
    init: str | Path | None,
    group: Group,
    stops: StopSignals,
) -> None:
    """One process's part: the first one writes, the others find what it wrote."""
    backbone_class(config.backbone.name)  # an unknown one is told before scans are prepared
    _choose_threads(run, config, mode, group.first)
    store = group.in_turn(lambda: open_store(config, mode, group.first))
    items = items_of(store, composition)
    rows = store.records
    groups = scan_groups(rows)
    train, held_out = split_items(items, config.held_out, config.seed, groups)
    if group.first:
        _warn_of_few(train, config, composition)
        if told := one_patient_warning((r["patient"], r["study"]) for r in rows):
            warnings.warn(told, stacklevel=3)
    composition = composition.resolve_for_data([source for item in train for source in item])
    backbone = build_backbone(config, composition, store)
    composition = composition.resolve_for_backbone(backbone)
    # The resolved configuration says what was done, not what was left open.
    config = config.model_copy(update={"options": composition.options()})
    began = None if init is None else beginning(init, load_into(backbone, init))
    records = records_of(rows, held_out)

    def begin() -> Path | None:
        """Make the folder, or find the state in it."""
        if mode == "resume":
            return _resumed(run, config, store, records, group.first)
        if group.first:
            make_folder(run, keep=[store.path])
            run.keep_room()
            write_json(run.path / "data.json", {"records": records, "refused": store.refused})
            # Last, so that what says "running" does run.
            describe(run, config, composition, store, train, held_out)
            if began is not None:
                run.note(init=began.model_dump(mode="json"))
        return None

    if mode == "resume" and run.status == "finished":
        check_unchanged(run.path, _settings_of(run), config)
        check_same_data(run, store.fingerprint, records)
        return
    state = group.in_turn(begin)
    if mode == "resume" and run.record.init is not None:
        began = Beginning.model_validate(run.record.init)
    names = {record["key"]: record["source"] for record in records}
    module = Pretraining(config, composition, backbone, train, held_out, names, groups)
    card = Card(
        backbone=backbone_config(config, composition, store),
        method=composition.name,
        preprocessing=store.preprocessing.of_voxels(),
        view_size=composition.input_size,
        data_fingerprint=store.fingerprint,
        decoder_trained=_decoder_trained(module),
        outside="background",
        began=began,
    )
    group.before_giving_up(lambda failure: note_failure(run, failure))
    for of_many_scans in (rows, records):  # which every loader process would carry along
        of_many_scans.clear()
    _train(run, config, module, card, state, group, stops)


def note_failure(run: Run, failure: ProcessFailed) -> None:
    """Say how a run ended, for the process whose part that was; the first one may be gone."""
    with suppress(RunError), ExitStack() as stack:
        if failure.speaks:  # unless the run is another's again
            stack.enter_context(holding(run.path, "situs pretrain"))
        if run.status == "running":
            stopped_so = stopped_by(failure, StopSignals())
            run.note(status="stopped", ended="failed", stopped_by=stopped_so)


def _choose_threads(run: Run, config: PretrainConfig, mode: Mode, first: bool) -> None:
    """As asked for; as the run was begun with, whose sums then stay the same; as cores are free."""
    if config.threads:
        torch.set_num_threads(config.threads)
        return
    cores = look()
    before = run.record.hardware.threads if mode == "resume" else None
    threads = int(before or cores.threads(config.devices))
    torch.set_num_threads(threads)
    if first:
        why = "as the run was begun with" if before else cores.why()
        line = "%s: threads %d (%s), loader processes %d"
        _LOG.info(line, cores.said(), threads, why, config.workers)


def _resumed(
    run: Run,
    config: PretrainConfig,
    store: Store,
    records: Sequence[Mapping[str, Any]],
    first: bool,
) -> Path:
    """The state to go on from."""
    if first:
        check_unchanged(run.path, _settings_of(run), config)
        check_same_data(run, store.fingerprint, records)
    state = run.verified_state()
    if first:
        describe_resumed(run, config)
    return state


def _settings_of(run: Run) -> dict[str, Any]:
    """What a run was begun with, under today's names."""
    was = validate(PretrainConfig, run.config)
    options = compose(was.method, was.options, was.weights, was.uncertainty).options()
    return was.model_copy(update={"options": options}).model_dump(mode="json")


def _warn_of_few(train: Sequence[Item], config: PretrainConfig, composition: Composition) -> None:
    """Say so where a batch cannot hold different scans only."""
    together = config.batch_size * config.world_size
    contrasting = [n for n, part in composition.parts.items() if part.least_batch > 1]
    if contrasting and len(train) < together:
        warnings.warn(
            f"{len(train)} training scans for batches of {together}: in every batch "
            f"{', '.join(contrasting)} contrasts views of one scan with each other as if they were "
            "of different scans. Take a smaller batch_size or more scans.",
            stacklevel=3,
        )


def _train(
    run: Run,
    config: PretrainConfig,
    module: Pretraining,
    card: Card,
    state: Path | None,
    group: Group,
    stops: StopSignals,
) -> None:
    quick_layout(module)
    if config.world_size > 1:
        synchronise(module)
    if config.compile:
        module.student.backbone.encoder.compile()
    before = (run.record.wall_seconds or 0.0) if state is not None else 0.0
    start, failure = time.perf_counter(), None
    with quiet_engine():
        trainer = _trainer(run, config, card, stops)
        try:
            trainer.fit(module, ckpt_path=state, weights_only=True)
        except BaseException as error:
            failure = group.cause(error)
        step = trainer.global_step
        if step >= config.steps and failure is None:
            stops.received = None  # too late to stop anything
        ending = how_it_ended(failure, stops)
        if trainer.is_global_zero:
            run.note(
                status="finished" if ending == "finished" else "stopped",
                ended=ending,
                stopped_by=stopped_by(failure, stops),
                step=step,
                wall_seconds=round(before + time.perf_counter() - start, 1),
                data_wait_share=round(module.data_wait_share, 4),
                peak_memory_mib=peak_memory_mib(),
                left_out=module.left_out or None,
                held_out_left_out=len(module.held_out.gone) or None,
            )
            run.release_room()
            if ending == "terminated" and requeue(stops):
                run.note(requeued=True)
        finish(trainer.loggers)  # one on a network may wait long; by now all is written
    if ending in ("interrupted", "terminated"):
        raise stopped(stops, run.left_to_do(), step) from None
    if failure is not None:
        raise failure


def _trainer(run: Run, config: PretrainConfig, card: Card, stops: StopSignals) -> pl.Trainer:
    steps = StepRollback()
    books = MetricsLogger(run, config.log_every, steps)
    observing = ObservationCallback(run, config.observe_every, books, config.observe_controls)
    return pl.Trainer(
        default_root_dir=run.path,
        max_steps=config.steps,
        **engine(config.devices, config.num_nodes, config.accelerator, config.precision),
        accumulate_grad_batches=config.optimiser.accumulate,
        use_distributed_sampler=False,  # the endless sampler knows its rank
        logger=loggers(config.loggers, run.path),
        callbacks=[
            steps,
            StopBetweenSteps(stops, lambda: steps.whole),
            FiniteSteps(steps, (config.log_every, config.observe_every, config.checkpoint_every)),
            KeepOffending(run.path),
            books,
            observing,
            Checkpoints(run, config.checkpoint_every, card, observing, steps),
            TrainingProgress(),
            DataClock(),
        ],
        enable_checkpointing=False,  # ours are atomic and checksummed
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _decoder_trained(module: Pretraining) -> bool:
    return any(p.trains_decoder for p in module.composition.parts.values())
