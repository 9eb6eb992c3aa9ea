"""``situs.pretrain``: from a configuration to a run folder."""

from __future__ import annotations

import os
import platform
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console

from situs import backbones
from situs.backbones.base import Backbone
from situs.catalog.patients import one_patient_warning
from situs.config import dump_yaml, load_config
from situs.cores import look
from situs.errors import ConfigError, setting
from situs.files import check_writable, write_file, write_json
from situs.locks import holding
from situs.methods.composition import Composition, compose
from situs.methods.distributed import synchronise
from situs.pretraining.callbacks import Checkpoints, DataClock, MetricsLogger, ObservationCallback
from situs.pretraining.config import PretrainConfig
from situs.pretraining.data import Item, split_items
from situs.pretraining.module import Pretraining
from situs.ranks import is_first
from situs.splits.groups import scan_groups
from situs.store import Store, prepare
from situs.training.engine import engine, quick_layout, quiet_engine
from situs.training.folder import (
    Mode,
    check_mode,
    check_same_data,
    check_same_paths,
    check_same_settings,
    is_run,
    make_folder,
)
from situs.training.processes import Group, together
from situs.training.progress import TrainingProgress
from situs.training.run import Run
from situs.training.states import States
from situs.training.steps import StepRollback
from situs.training.stopping import (
    StopBetweenSteps,
    StopSignals,
    how_it_ended,
    requeue,
    resume_command,
    slurm_job,
    stop_signals,
    stopped,
    was_requeued,
)
from situs.version import __version__
from situs.views.source import Source
from situs.weights import Beginning, Card, beginning, load_into


def pretrain(
    config: Mapping[str, Any] | str | Path | PretrainConfig,
    *,
    mode: Mode = "new",
    init: str | Path | None = None,
    overrides: Sequence[str] = (),
    quiet: bool = False,
) -> Run:
    """Pretrain a backbone; everything that was computed is kept whatever happens.

    Args:
        config: A mapping, the path of a YAML file, or a :class:`PretrainConfig`.
        mode: ``"new"`` needs an empty or absent ``out``; ``"resume"`` continues the run there
            to the same numbers as an uninterrupted one, and leaves a finished one as it is;
            ``"overwrite"`` deletes it, once everything that is needed has been opened.
        init: A run or weights folder whose backbone the training starts from.
        overrides: ``key.path=value`` strings.
        quiet: No progress.

    Returns:
        The run.

    Raises:
        ConfigError: If the configuration cannot be used.
        RunError: If ``out`` is in use by another process, does not fit the mode, or cannot be
            resumed: with other settings or data than the run was begun with, or without a whole
            state.
        NonFiniteLoss: If a loss term or the gradient stops being finite; the last good state
            is saved.
        ProcessFailed: If another process of this run failed.
        Interrupted: After Ctrl-C, when the step under way is whole and saved.
        Terminated: After SIGTERM likewise.
    """
    config = load_config(PretrainConfig, config, overrides)
    composition = compose(config.method, config.options, config.weights, config.uncertainty)
    _check_batch(config, composition)
    run = Run(config.out)
    with ExitStack() as stack:
        if is_first():
            check_writable(run.path, folder=True)
            stack.enter_context(holding(run.path, "situs pretrain"))
            mode = _mode(run, mode)
            check_mode(run, mode, _paths(config), init)
        stops = stack.enter_context(stop_signals())
        group = stack.enter_context(together(config.devices, config.num_nodes, config.accelerator))
        mode = group.agreed(mode)
        _pretrain(run, config, composition, mode, init, group, stops, quiet or not group.first)
    return run


def _pretrain(
    run: Run,
    config: PretrainConfig,
    composition: Composition,
    mode: Mode,
    init: str | Path | None,
    group: Group,
    stops: StopSignals,
    quiet: bool,
) -> None:
    """One process's part: the first one writes, the others find what it wrote."""
    _choose_threads(run, config, mode, quiet)
    store = group.in_turn(lambda: open_store(config, mode, group.first))
    items = items_of(store, composition)
    groups = scan_groups(store.records)
    train, held_out = split_items(items, config.held_out, config.seed, groups)
    if group.first:
        _warn_of_few(train, config, composition)
        if told := one_patient_warning((r["patient"], r["study"]) for r in store.records):
            warnings.warn(told, stacklevel=3)
    composition = composition.resolve_for_data([source for item in train for source in item])
    backbone = build_backbone(config, composition, store)
    composition = composition.resolve_for_backbone(backbone)
    # The resolved configuration says what was done, not what was left open.
    config = config.model_copy(update={"options": composition.options()})
    began = None if init is None else beginning(init, load_into(backbone, init))
    records = _records(store, held_out)

    def begin() -> Path | None:
        """Make the folder, or find the state in it."""
        if mode == "resume":
            return _resumed(run, config, store, records, group.first)
        if group.first:
            make_folder(run, keep=[store.path])
            _describe(run, config, composition, store, train, held_out)
            if began is not None:
                run.write_info({"init": began.model_dump(mode="json")})
            write_json(run.path / "data.json", {"records": records, "refused": store.refused})
        return None

    if mode == "resume" and run.status == "finished":
        check_same_settings(run, config)
        check_same_data(run, store.fingerprint, records)
        return
    state = group.in_turn(begin)
    if mode == "resume" and "init" in run.info:
        began = Beginning.model_validate(run.info["init"])
    names = {record["key"]: record["source"] for record in records}
    module = Pretraining(config, composition, backbone, train, held_out, names, groups)
    card = Card(
        backbone=backbone_config(config, composition, store),
        method=composition.name,
        preprocessing=store.rules.model_dump(mode="json"),
        view_size=composition.input_size,
        data_fingerprint=store.fingerprint,
        decoder_trained=_decoder_trained(module),
        outside="background",
        began=began,
    )
    _train(run, config, module, card, state, stops, quiet)


def _choose_threads(run: Run, config: PretrainConfig, mode: Mode, quiet: bool) -> None:
    """As asked for; as the run was begun with, whose sums then stay the same; as cores are free."""
    if config.threads:
        torch.set_num_threads(config.threads)
        return
    cores = look()
    before = run.info.get("hardware", {}).get("threads") if mode == "resume" else None
    threads = int(before or cores.threads(config.devices))
    torch.set_num_threads(threads)
    if not quiet:
        why = "as the run was begun with" if before else "chosen by what is free"
        Console(stderr=True).print(
            f"{cores.said()}: threads {threads} ({why}), loader processes {config.workers}",
            markup=False,
            highlight=False,
        )


def _mode(run: Run, mode: Mode) -> Mode:
    """A SLURM job that was queued again goes on with the run it began."""
    again = mode == "new" and is_run(run.path) and was_requeued(run.info)
    return "resume" if again else mode


def _resumed(
    run: Run,
    config: PretrainConfig,
    store: Store,
    records: Sequence[Mapping[str, Any]],
    first: bool,
) -> Path:
    """The state to go on from."""
    if first:
        check_same_settings(run, config)
        check_same_data(run, store.fingerprint, records)
    state = run.verified_state()
    if first:
        _describe_resumed(run, config)
    return state


def _check_batch(config: PretrainConfig, composition: Composition) -> None:
    """Refuse a batch in which a method has nothing to compare a sample with."""
    together = config.batch_size * config.world_size
    for name, part in composition.parts.items():
        if together < part.least_batch:
            raise ConfigError(
                f"batch_size {config.batch_size} on {config.world_size} device(s) leaves '{name}' "
                f"nothing to contrast a sample with: its loss would be 0 whatever it learns. Take "
                f"batch_size={part.least_batch} or more (optimiser.accumulate does not help)"
            )


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
    stops: StopSignals,
    quiet: bool,
) -> None:
    quick_layout(module)
    if config.world_size > 1:
        synchronise(module)
    if config.compile:
        module.student.backbone.encoder.compile()
    before = float(run.info.get("wall_seconds", 0.0)) if state is not None else 0.0
    start, failure = time.perf_counter(), None
    with quiet_engine():
        trainer = _trainer(run, config, card, stops, quiet)
        try:
            trainer.fit(module, ckpt_path=state, weights_only=True)
        except BaseException as error:
            failure = error
        step = trainer.global_step
        if step >= config.steps and failure is None:
            stops.received = None  # too late to stop anything
        ending = how_it_ended(failure, stops)
        if trainer.is_global_zero:
            run.write_info(
                {
                    "status": "finished" if ending == "finished" else "stopped",
                    "ended": ending,
                    "stopped_by": _stopped_by(failure, stops),
                    "step": step,
                    "wall_seconds": round(before + time.perf_counter() - start, 1),
                    "data_wait_share": round(module.data_wait_share, 4),
                    "peak_memory_mib": _peak_memory_mib(),
                }
            )
            if ending == "terminated" and requeue(stops):
                run.write_info({"requeued": True})
    if ending in ("interrupted", "terminated"):
        saved = States(run.path / "checkpoints" / "last").any()
        again = resume_command("pretrain", run.path) if saved else "the same command"
        raise stopped(stops, step, again, saved) from None
    if failure is not None:
        raise failure


def _stopped_by(failure: BaseException | None, stops: StopSignals) -> str | None:
    if isinstance(failure, Exception):
        return f"{type(failure).__name__}: {failure}"
    return stops.received.name if stops.received is not None else None


def _trainer(
    run: Run, config: PretrainConfig, card: Card, stops: StopSignals, quiet: bool
) -> pl.Trainer:
    steps = StepRollback()
    books = MetricsLogger(run, config.log_every, steps)
    observing = ObservationCallback(run, config.observe_every, books, config.observe_controls)
    return pl.Trainer(
        default_root_dir=run.path,
        max_steps=config.steps,
        **engine(config.devices, config.num_nodes, config.accelerator, config.precision),
        accumulate_grad_batches=config.optimiser.accumulate,
        use_distributed_sampler=False,  # the endless sampler knows its rank
        logger=TensorBoardLogger(run.path, name="", version="tensorboard"),
        callbacks=[
            steps,
            StopBetweenSteps(stops, lambda: steps.whole),
            books,
            observing,
            Checkpoints(run, config.checkpoint_every, card, observing, steps),
            TrainingProgress(quiet=quiet),
            DataClock(),
        ],
        enable_checkpointing=False,  # ours are atomic and checksummed
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _paths(config: PretrainConfig) -> tuple[Path, ...]:
    return config.data if isinstance(config.data, tuple) else (config.data,)


def open_store(config: PretrainConfig, mode: Mode, first: bool = True) -> Store:
    """The store asked for, or one of the run's own, prepared from scans."""
    paths = _paths(config)
    own = config.out / "store"
    if not first and Store.is_store(own) and not Store.is_store(paths[0]):
        return Store.open(own)
    if mode == "resume" and Store.is_store(own) and not Store.is_store(paths[0]):
        check_same_paths(Run(config.out), paths)
        return Store.open(own)
    absent = [str(path) for path in paths if not path.exists()]
    if absent:
        raise ConfigError(f"{setting('data')} is not there: {', '.join(absent)}")
    if len(paths) == 1 and Store.is_store(paths[0]):
        return Store.open(paths[0])
    if mode == "overwrite" and is_run(config.out):
        shutil.rmtree(own, ignore_errors=True)  # its scans are there, and its rules may differ
    return prepare(list(paths), own, config.preprocessing, workers=os.cpu_count())


def items_of(store: Store, composition: Composition) -> list[Item]:
    """What samples are drawn from: the studies of a store, or its scans one by one."""
    if composition.item == "study":
        return [list(study) for study in store.studies()]
    scans: list[Source] = [store[i] for i in range(len(store))]
    return [[scan] for scan in scans]


def backbone_config(
    config: PretrainConfig, composition: Composition, store: Store
) -> backbones.BackboneConfig:
    """The backbone asked for, with the method's dimension and the store's channels."""
    return config.backbone.model_copy(
        update={"spatial_dims": composition.spatial_dims, "in_channels": store[0].channels}
    )


def build_backbone(config: PretrainConfig, composition: Composition, store: Store) -> Backbone:
    """The backbone with the weights that the run's seed gives it; seeds all generators."""
    pl.seed_everything(config.seed, verbose=False)
    return backbones.build(backbone_config(config, composition, store))


def _decoder_trained(module: Pretraining) -> bool:
    return any(p.trains_decoder for p in module.composition.parts.values())


def _describe(
    run: Run,
    config: PretrainConfig,
    composition: Composition,
    store: Store,
    train: Sequence[Item],
    held_out: Sequence[Item],
) -> None:
    """What a reader must know before the first step, so that even a crash leaves it."""
    write_file(run.path / "config.yaml", dump_yaml(config))
    known = {
        "situs_version": __version__,
        "method": composition.name,
        "method_info": composition.about(),
        "backbone": backbone_config(config, composition, store).model_dump(mode="json"),
        "data_fingerprint": store.fingerprint,
        "seed": config.seed,
        "scans": len(store),
        "training_items": len(train),
        "held_out_items": len(held_out),
        "held_out_is_training": train == held_out,
        "hardware": _hardware(),
        "status": "running",
        "started": _now(),
        "slurm_job": slurm_job(),
    }
    run.write_info(known)


def _describe_resumed(run: Run, config: PretrainConfig) -> None:
    """What the run was begun with stays; where and with what it goes on is added."""
    write_file(run.path / "config.yaml", dump_yaml(config))  # with what was free to change
    part = {"started": _now(), "situs_version": __version__, "hardware": _hardware()}
    parts = [*run.info.get("resumed", []), part]
    run.write_info({"status": "running", "ended": None, "stopped_by": None, "resumed": parts})


def _records(store: Store, held_out: Sequence[Item]) -> list[dict[str, Any]]:
    """The store's records, and whether each scan is held out."""
    keys = {source.key for item in held_out for source in item}
    return [{**record, "held_out": record["key"] in keys} for record in store.records]


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")


def _hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "torch": torch.__version__,
    }


def _peak_memory_mib() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated() / 2**20)
    import resource  # noqa: PLC0415 - absent on Windows

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
