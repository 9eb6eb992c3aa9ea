"""A step of AdamW on a CPU: one call a tensor, torch's loops over lists, one call for all.

``OMP_NUM_THREADS=1 python -m benchmarks.optimiser``. Milliseconds of the processor, least and
median, all in turns; the parameters are those of two convolutions a stage. Then whole steps of
``sal`` and ``planes`` (convolutional network of 16 to 256 channels, views of 128²), with one call a
tensor and with one call for all, likewise in turns.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from benchmarks.gpu import SLICES, Row, Step, flat
from torch import nn

from situs.views import ArraySource

CHANNELS = ([8, 16, 32, 64], [16, 32, 64, 128, 256], [32, 64, 128, 256, 512])
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
STEPS, WARM = 60, 3
METHODS = (
    Row("sal", "sal", 2, SLICES, flat(128)),
    Row("planes", "planes", 1, SLICES, {**flat(128), "studies": "virtual"}),
)


def parameters(channels: list[int]) -> list[nn.Parameter]:
    """Of two convolutions a stage, each with a gradient."""
    found = []
    for before, after in pairwise([1, *channels]):
        for layer in (nn.Conv2d(before, after, 3), nn.Conv2d(after, after, 3)):
            found += list(layer.parameters())
    for parameter in found:
        parameter.grad = 0.01 * torch.randn_like(parameter)
    return found


def times(of: list[nn.Parameter], steps: int) -> dict[str, list[float]]:
    """Seconds of each step by kind."""
    optimisers = {name: torch.optim.AdamW(of, **options) for name, options in KINDS.items()}
    took: dict[str, list[float]] = {name: [] for name in KINDS}
    for _ in range(steps):
        for name, optimiser in optimisers.items():
            start = time.process_time()
            optimiser.step()
            took[name].append(time.process_time() - start)
    return took


def step_times(step: Step, steps: int) -> dict[str, list[float]]:
    """Seconds of whole steps by kind."""
    took: dict[str, list[float]] = {"default": [], "fused": []}
    for _ in range(steps):
        for name, seconds in took.items():
            for group in step.optimiser.param_groups:
                group["fused"] = KINDS[name].get("fused")
            start = time.process_time()
            step.step()
            seconds.append(time.process_time() - start)
    return took


def main() -> None:
    torch.set_num_threads(1)
    noise = np.random.default_rng(0).standard_normal((1, 128, 128, 64), dtype=np.float32)
    print(f"{'parameters':>12s}" + "".join(f"{name:>16s}" for name in KINDS))
    for channels in CHANNELS:
        of = parameters(channels)
        took = times(of, STEPS)
        columns = [
            f"{1e3 * min(t[WARM:]):8.2f}{1e3 * np.median(t[WARM:]):8.2f}" for t in took.values()
        ]
        print(f"{sum(p.numel() for p in of):12,d}" + "".join(columns), flush=True)
    for row in METHODS:
        took = step_times(Step(row, ArraySource(noise, air=(-4.0,)), small=False), STEPS // 2)
        found = {k: (1e3 * min(t[WARM:]), 1e3 * np.median(t[WARM:])) for k, t in took.items()}
        columns = [f"{name} {least:.1f}, {middle:.1f}" for name, (least, middle) in found.items()]
        print(f"a step of {row.name}, least and median ms: " + "; ".join(columns), flush=True)


if __name__ == "__main__":
    main()
