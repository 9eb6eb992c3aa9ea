"""What an observation and its controls cost, beside the steps that a training takes meanwhile.

Run `python -m benchmarks.controls [METHOD…]`: for each method the time of a step (samples, losses,
gradients, clipping, optimiser and teacher), of an observation with its file, and of one with its
controls (emptied, shuffled, untrained) and the reach of each loss term, in one process and on one
thread, by turns; what an observation is of the steps between two, and what the controls add to
1,000 steps, in per cent.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from scipy import ndimage
from torch.utils.data import default_collate

from situs.backbones import BackboneConfig
from situs.backbones import build as build_backbone
from situs.methods import available
from situs.methods.composition import compose
from situs.pretraining.config import PretrainConfig
from situs.pretraining.module import Pretraining
from situs.pretraining.teacher import update_teacher
from situs.training.engine import quick_layout
from situs.views import ArraySource

STEPS = 1000
TURNS = 3


def scans(count: int) -> list[ArraySource]:
    """Smooth scans of the size of the hippocampus crops."""
    rng = np.random.default_rng(0)
    arrays = [ndimage.gaussian_filter(rng.standard_normal((36, 50, 36)), 2) for _ in range(count)]
    return [
        ArraySource((a / a.std()).astype(np.float32)[None], key=f"scan-{i}")
        for i, a in enumerate(arrays)
    ]


def seconds(work: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


class Training:
    """A method in training, without a trainer around it."""

    def __init__(self, name: str, folder: Path) -> None:
        items = [[scan] for scan in scans(12)]
        composition = compose(name).resolve_for_data([item[0] for item in items])
        backbone = build_backbone(BackboneConfig(spatial_dims=composition.spatial_dims))
        composition = composition.resolve_for_backbone(backbone)
        config = PretrainConfig(method=name, data=folder, out=folder, backbone=BackboneConfig())
        self.module = Pretraining(config, composition, backbone, items, items)
        self.module.trainer = None  # type: ignore[assignment]
        type(self.module).global_step = 0  # type: ignore[assignment]
        quick_layout(self.module)
        self.folder, self.every = folder, config.observe_every
        self.optimiser = self.module.configure_optimizers()["optimizer"]

    def step(self) -> None:
        """All that a step does, but for logging."""
        module = self.module
        drawn = [
            module.composition.sample(module.train_items[i], np.random.default_rng(i))
            for i in range(module.config.batch_size)
        ]
        result = module.composition.step(
            default_collate(drawn), module.student, module.teacher, torch.Generator()
        )
        self.optimiser.zero_grad()
        result.losses["total"].backward()
        torch.nn.utils.clip_grad_norm_(
            module.student.parameters(), module.config.optimiser.gradient_clip
        )
        self.optimiser.step()
        if module.teacher is not None:
            update_teacher(module.teacher, module.student, 0.99)

    def observe(self, controls: bool = False) -> None:
        """An observation and its file."""
        for part, found in self.module.observe(controls).items():
            found.save(self.folder / f"{part}.obs")


def main() -> None:
    """One line a method."""
    torch.set_num_threads(1)
    print("method     step  observation  of its steps  with controls  added to 1,000 steps")
    for name in sys.argv[1:] or available():
        with tempfile.TemporaryDirectory() as folder:
            training = Training(name, Path(folder))
            steps, looks = [], []
            training.step()
            training.observe()
            for _ in range(TURNS):
                steps += [seconds(training.step) for _ in range(TURNS)]
                looks.append(seconds(training.observe))
            each, plain = median(steps), median(looks)
            full = seconds(
                lambda training=training: (training.observe(True), training.module.reach())
            )
        share = 100 * plain / (training.every * each)
        added = 100 * (full - plain) / (STEPS * each)
        print(
            f"{name:8} {each:6.2f} s {plain:9.2f} s {share:11.1f} % {full:12.2f} s {added:18.1f} %",
            flush=True,
        )


if __name__ == "__main__":
    main()
