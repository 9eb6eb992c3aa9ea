"""A step of every method against the calls of its network alone, on one thread of a CPU.

``OMP_NUM_THREADS=1 python -m benchmarks.steps [WORD …]``. The columns are those of
``benchmarks.gpu``, at sizes that a CPU trains: a convolutional network of 8 to 64 channels. Times
are medians of the processor's in milliseconds, network, loss and step in turns; ``trainer`` is all
that ``situs pretrain`` does around a step but reading.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import torch
from benchmarks.gpu import Row, Step, cube, flat, through_trainer, times

from situs.views import ArraySource

PACE_S = 2.0  # of a round of network, loss and step
CNN = {"name": "cnn", "options": {"channels": [8, 16, 32, 64]}}


def row(method: str, batch: int, options: dict[str, Any]) -> Row:
    return Row(method, method, batch, CNN, options)


TILES = {"grid": [2, 2, 2], "crop_size": cube(16)}
ROWS = [
    row("spatial", 2, {"view_size": cube(24), "chunk_size": cube(8)}),
    row("s2dc", 2, TILES),
    row("sal", 2, flat(128)),
    row("planes", 1, {**flat(128), "studies": "virtual"}),
    row("mae", 2, {"view_size": cube(32)}),
    row("simclr", 4, {"view_size": cube(24)}),
    row("voco", 2, TILES),
    row("dino", 4, {"global_size": cube(24), "local_size": cube(16)}),
]


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    noise = np.random.default_rng(0).standard_normal((1, 128, 128, 64), dtype=np.float32)
    scan = ArraySource(noise, air=(-4.0,))
    columns = ("network", "loss", "step", "trainer")
    print(f"{'':10s}" + "".join(f"{name:>10s}" for name in (*columns, "loss/net.", "trainer/step")))
    for one in ROWS:
        if sys.argv[1:] and one.name not in sys.argv[1:]:
            continue
        step = Step(one, scan, small=False)
        found = {**times(step, 1.0, PACE_S), **through_trainer(step, PACE_S / 2)}
        took = [found[f"{name}_ms"] for name in columns]
        ratios = f"{found['ratio']:10.2f}{took[3] / took[2]:10.2f}"
        print(f"{one.name:10s}" + "".join(f"{ms:10.1f}" for ms in took) + ratios, flush=True)


if __name__ == "__main__":
    main()
