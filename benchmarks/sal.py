"""Local alignment of ``sal``: full and windowed, against the whole similarity matrix.

Run with one thread: ``OMP_NUM_THREADS=1 python -m benchmarks.sal [--plots FOLDER]``. Prints
processor time and peak memory of forward and backward for one pair of maps of 128 × 128
positions and 64 channels; with ``--plots`` also how both grow with the map and the window.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from situs.methods.sal import local_alignment

Loss = Callable[[Tensor, Tensor], Tensor]


def whole_matrix(x_i: Tensor, x_j: Tensor) -> Tensor:
    """The formula as it is written: all similarities at once, gradient through all of them."""
    i, j = (F.normalize(x, dim=1).flatten(2) for x in (x_i, x_j))
    similarity = i.transpose(1, 2) @ j
    return sum((1 - similarity.amax(d)).abs().mean() for d in (1, 2)) / 2


def maps(side: int, channels: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    i, j = torch.randn(2, 1, channels, side, side, generator=generator)
    return i.requires_grad_(), j.requires_grad_()


def cost(loss: Loss, side: int, repeats: int = 3) -> tuple[float, float]:
    """Best processor time in seconds and peak memory in MiB of forward and backward."""
    i, j = maps(side)
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        torch.autograd.grad(loss(i, j), (i, j))
        best = min(best, time.process_time() - start)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        torch.autograd.grad(loss(i, j), (i, j))
    held = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return best, peak / 2**20


def table(side: int) -> None:
    losses: dict[str, Loss] = {
        "whole matrix": whole_matrix,
        "full": local_alignment,
        "window 32": partial(local_alignment, window=32),
        "window 16": partial(local_alignment, window=16),
        "window 8": partial(local_alignment, window=8),
    }
    i, j = maps(side)
    with torch.no_grad():
        gap = (whole_matrix(i, j) - local_alignment(i, j)).abs().item()
    print(f"{side} × {side} positions; full differs from the whole matrix by {gap:.0e}")
    reference = None
    for name, loss in losses.items():
        seconds, mib = cost(loss, side)
        reference = reference or (seconds, mib)
        faster, smaller = reference[0] / seconds, reference[1] / mib
        print(
            f"{name:14s} {seconds:8.3f} s {mib:8.0f} MiB   "
            f"{faster:6.1f} times as fast, 1/{smaller:.0f} the memory"
        )


def plots(folder: Path) -> None:
    """Time and memory over the side of the map, one curve a window."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - only with --plots

    sides = [16, 32, 64, 96, 128]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    curves: dict[str, Loss] = {
        "whole matrix": whole_matrix,
        "full": local_alignment,
        "window 16": partial(local_alignment, window=16),
        "window 8": partial(local_alignment, window=8),
    }
    for name, loss in curves.items():
        costs = [cost(loss, side, repeats=2) for side in sides]
        for axis, values in zip(axes, zip(*costs, strict=True), strict=True):
            axis.loglog(sides, values, marker="o", label=name)
    for axis, label in zip(axes, ("processor time (s)", "peak memory (MiB)"), strict=True):
        axis.set(xlabel="positions a side", ylabel=label)
    axes[0].legend()
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "sal.png", dpi=150)
    print(f"wrote {folder / 'sal.png'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plots", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table(128)
    if arguments.plots:
        plots(arguments.plots)


if __name__ == "__main__":
    main()
