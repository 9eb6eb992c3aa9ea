"""How many loader processes keep a device busy: as many as measured times ask for."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch.utils.data import default_collate

from situs.cores import look
from situs.methods.distributed import alone
from situs.pretraining.data import ViewDataset
from situs.tensors import copy_all

if TYPE_CHECKING:
    from situs.pretraining.module import Pretraining

_SPARE = 1.25  # samples differ, and a loader that is only just in time is late every other step
_SAMPLES, _STEPS = 4, 3
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """What one step asks of its loader.

    Attributes:
        sample_seconds: Of drawing one sample in one process.
        step_seconds: Of one batch, forward and backward.
        batch_size: Samples of a batch.
    """

    sample_seconds: float
    step_seconds: float
    batch_size: int

    def workers(self, cores: float) -> int:
        """Processes that draw as fast as steps are taken, at most one a core, at least one."""
        asked = _SPARE * self.batch_size * self.sample_seconds / max(self.step_seconds, 1e-9)
        return max(1, min(math.ceil(asked), int(cores)))


def workers_for(module: Pretraining, dataset: ViewDataset) -> int:
    """Loader processes for a module that stands on its device, from a few samples and steps.

    Nothing is changed by it: buffers and random states are put back, gradients dropped.
    """
    pace = measured(module, dataset)
    device = module.device.type
    # The process that trains keeps its own cores: all of its threads, or one that feeds a GPU.
    own = torch.get_num_threads() if device == "cpu" else 1
    free = look().free / module.config.devices - own
    workers = pace.workers(free)
    _LOG.info(
        "a sample takes %.0f ms, a step of %d samples %.0f ms, and %.1f cores are free: %d loader "
        "processes",
        1e3 * pace.sample_seconds,
        pace.batch_size,
        1e3 * pace.step_seconds,
        max(0.0, free),
        workers,
    )
    return workers


def measured(module: Pretraining, dataset: ViewDataset) -> Pace:
    """Median times of a few samples, and of a few steps on them; the first of each is left out."""
    samples, drawn = [], []
    for number in range(_SAMPLES):
        begin = time.perf_counter()
        samples.append(dataset[number])
        drawn.append(time.perf_counter() - begin)
    size = module.config.batch_size
    batch = default_collate([samples[i % _SAMPLES]["views"] for i in range(size)])
    batch = module.transfer_batch_to_device(batch, module.device, 0)
    buffers = list(module.buffers())
    before = [buffer.clone() for buffer in buffers]
    taken = []
    here = [module.device] if module.device.type == "cuda" else []
    with torch.random.fork_rng(here), alone():
        for _ in range(_STEPS):
            begin = time.perf_counter()
            _step(module, batch)
            taken.append(time.perf_counter() - begin)
    copy_all(buffers, before)
    module.zero_grad(set_to_none=True)
    return Pace(median(drawn[1:]), median(taken[1:]), size)


def _step(module: Pretraining, batch: dict[str, dict[str, torch.Tensor]]) -> None:
    generator = torch.Generator().manual_seed(0)
    with module.trainer.precision_plugin.train_step_context():
        result = module.composition.step(batch, module.student, module.teacher, generator)
    result.losses["total"].backward()
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
