"""What processes of a pool do that read from a store; they import this module and little else."""

from __future__ import annotations

import os

import numpy as np

from situs.store import Store


def read_all(url: str, seed: int) -> bool:
    """Whether random crops of the store are those of LOCAL_STORE."""
    store, rng = Store.open(url), np.random.default_rng(seed)
    sums = []
    for _ in range(40):
        scan = store[int(rng.integers(len(store)))]
        start = [int(rng.integers(0, n - 8)) for n in scan.shape]
        sums.append((scan.key, start, float(scan.read(start, (8, 8, 8)).sum())))
    local = {scan.key: scan for scan in Store.open(os.environ["LOCAL_STORE"])}
    return all(
        float(local[key].read(start, (8, 8, 8)).sum()) == found for key, start, found in sums
    )
