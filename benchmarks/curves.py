"""How time grows with the batch, views, tokens, loader processes and scans, each as ratios.

``python -m benchmarks.curves``. A row is one quantity; below each of its values stands the time for
one of what is counted, over that of the row's first value. Values are measured in turns, and the
median is taken of processor time on one thread, but for loader processes, whose samples a second
are of the wall clock and say little on a busy machine.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import numpy as np
import torch
from benchmarks.gpu import Step, cube
from benchmarks.s2dc import batched, gradients, problem
from benchmarks.steps import row

from situs.methods.composition import compose
from situs.pretraining.data import EndlessSampler, ViewDataset, loader
from situs.views import ArraySource

TURNS = 5
SPATIAL = {"view_size": cube(24), "chunk_size": cube(8)}


def processor(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def wall(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def said(
    what: str,
    works: Mapping[int, Callable[[], object]],
    counted: Callable[[int], float],
    clock: Callable[[Callable[[], object]], float] = processor,
) -> None:
    """One row: values, and the time for one of what is counted beside the first value's."""
    taken: dict[int, list[float]] = {value: [] for value in works}
    for work in works.values():
        work()
    for _ in range(TURNS):
        for value, work in works.items():
            taken[value].append(clock(work) / counted(value))
    each = {value: median(times) for value, times in taken.items()}
    first = next(iter(each.values()))
    cells = "".join(f"{value:>9,d}:{seconds / first:5.2f}" for value, seconds in each.items())
    print(f"{what:34s}{1e3 * first:9.3f} ms{cells}", flush=True)


def step(scan: ArraySource, batch: int, **more: Any) -> Callable[[], None]:
    return Step(row("spatial", batch, {**SPATIAL, **more}), scan, small=False).step


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    noise = np.random.default_rng(0).standard_normal((1, 128, 128, 64), dtype=np.float32)
    scan = ArraySource(noise, air=(-4.0,))
    said("step of spatial, a sample by batch", {n: step(scan, n) for n in (1, 2, 4, 8)}, float)
    by_views = {n: step(scan, 2, views=n) for n in (2, 3, 4, 6)}
    said("step of spatial, a view by views", by_views, float)

    def losses(tokens: int) -> Callable[[], object]:
        made, matches = problem(4, tokens)
        return lambda: gradients(batched, made, matches)

    by_tokens = {n: losses(n) for n in (64, 144, 256, 512)}
    said("losses of s2dc, a token by tokens", by_tokens, float)

    composition = compose("spatial", SPATIAL).resolve_for_data([scan])

    def drawn(scans: int) -> Callable[[], object]:
        dataset = ViewDataset([[scan]] * scans, composition, 0)
        return lambda: [dataset[number] for number in range(8)]

    by_scans = {n: drawn(n) for n in (10, 1_000, 100_000)}
    said("a sample of spatial by scans", by_scans, lambda _: 8.0)

    def loaded(workers: int) -> Callable[[], object]:
        dataset = ViewDataset([[scan]] * 8, composition, 0)
        batches = iter(loader(dataset, EndlessSampler(0, 4), workers))
        return lambda: [next(batches) for _ in range(10)]

    by_workers = {n: loaded(n) for n in (1, 2)}
    said("a sample of spatial by loaders", by_workers, lambda _: 40.0, wall)


if __name__ == "__main__":
    main()
