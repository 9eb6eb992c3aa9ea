"""What a run's folder says of it: before the first step, and where it goes on."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from situs.config import dump_yaml
from situs.files import write_file
from situs.methods.composition import Composition
from situs.pretraining.config import PretrainConfig
from situs.pretraining.data import Item
from situs.pretraining.parts import backbone_config
from situs.store import Store
from situs.training.record import Hardware, Resumed
from situs.training.run import Run
from situs.training.stopping import slurm_job
from situs.version import __version__


def describe(
    run: Run,
    config: PretrainConfig,
    composition: Composition,
    store: Store,
    train: Sequence[Item],
    held_out: Sequence[Item],
) -> None:
    """What a reader must know before the first step, so that even a crash leaves it."""
    write_file(run.path / "config.yaml", dump_yaml(config))
    run.note(
        situs_version=__version__,
        method=composition.name,
        method_info=composition.about(),
        backbone=backbone_config(config, composition, store).model_dump(mode="json"),
        data_fingerprint=store.fingerprint,
        seed=config.seed,
        scans=len(store),
        training_items=len(train),
        held_out_items=len(held_out),
        held_out_is_training=train == held_out,
        hardware=_hardware(),
        status="running",
        started=_now(),
        slurm_job=slurm_job(),
    )


def describe_resumed(run: Run, config: PretrainConfig) -> None:
    """What the run was begun with stays; where and with what it goes on is added."""
    write_file(run.path / "config.yaml", dump_yaml(config))  # with what was free to change
    part = Resumed(started=_now(), situs_version=__version__, hardware=_hardware())
    resumed = (*run.record.resumed, part)
    run.keep_room()
    run.note(status="running", ended=None, stopped_by=None, resumed=resumed)


def records_of(
    records: Sequence[Mapping[str, Any]], held_out: Sequence[Item]
) -> list[dict[str, Any]]:
    """A store's records, and whether each scan is held out."""
    keys = {source.key for item in held_out for source in item}
    return [{**record, "held_out": record["key"] in keys} for record in records]


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")


def _hardware() -> Hardware:
    return Hardware(
        machine=platform.machine(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        gpus=tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())),
        torch=str(torch.__version__),
    )


def peak_memory_mib() -> int:
    """Most memory that was taken: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated() / 2**20)
    import resource  # noqa: PLC0415 - absent on Windows

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
