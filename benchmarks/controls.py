"""What the controls of an observation cost, beside the steps of a training of 1,000.

Run `python benchmarks/controls.py [METHOD…]`: for each method the time of a step, of an
observation, and of one with its controls (emptied, shuffled, untrained) and the reach of each loss
term, in one process and on one thread; and what the controls add to 1,000 steps, in per cent.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch.utils.data import default_collate

from situs.backbones import BackboneConfig
from situs.backbones import build as build_backbone
from situs.methods.composition import compose
from situs.pretraining.config import PretrainConfig
from situs.pretraining.module import Pretraining
from situs.views import ArraySource

STEPS = 1000


def scans(count: int) -> list[ArraySource]:
    """Smooth scans of the size of the hippocampus crops."""
    rng = np.random.default_rng(0)
    arrays = [ndimage.gaussian_filter(rng.standard_normal((36, 50, 36)), 2) for _ in range(count)]
    return [
        ArraySource((a / a.std()).astype(np.float32)[None], key=f"scan-{i}")
        for i, a in enumerate(arrays)
    ]


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """Least processor time of a call: a busy machine does not change it."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def main() -> None:
    """One line a method."""
    torch.set_num_threads(1)
    print("method     step  observation  with controls  added to 1,000 steps")
    for name in sys.argv[1:] or ["planes", "sal", "spatial", "s2dc", "mae", "simclr", "voco"]:
        items = [[scan] for scan in scans(12)]
        composition = compose(name).resolve_for_data([item[0] for item in items])
        backbone = build_backbone(BackboneConfig(spatial_dims=composition.spatial_dims))
        composition = composition.resolve_for_backbone(backbone)
        folder = Path(tempfile.gettempdir())
        config = PretrainConfig(method=name, data=folder, out=folder, backbone=BackboneConfig())
        module = Pretraining(config, composition, backbone, items, items)
        module.trainer = None  # type: ignore[assignment]
        type(module).global_step = 0  # type: ignore[assignment]

        def step(module: Pretraining = module) -> None:
            drawn = [
                module.composition.sample(module.train_items[i], np.random.default_rng(i))
                for i in range(4)
            ]
            views = default_collate(drawn)
            result = module.composition.step(
                views, module.student, module.teacher, torch.Generator()
            )
            result.losses["total"].backward()

        each = seconds(step, 5)
        module.observe()
        plain = seconds(module.observe)
        full = seconds(lambda module=module: (module.observe(controls=True), module.reach()))
        added = 100 * (full - plain) / (STEPS * each)
        print(f"{name:8} {each:6.2f} s {plain:9.2f} s {full:12.2f} s {added:14.1f} %", flush=True)


if __name__ == "__main__":
    main()
