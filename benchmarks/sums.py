"""Sums of methods: what of a step goes into reading, the most that shared views could save.

Run with one thread: ``OMP_NUM_THREADS=1 python -m benchmarks.sums``. Times are the processor's,
files are in the page cache. Scans that are small enough to be kept decoded are not read again, so
that the random ones are larger than that.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch.utils.data import default_collate

from situs.backbones import BackboneConfig, build
from situs.methods.base import Network
from situs.methods.composition import compose
from situs.pretraining.teacher import make_teacher
from situs.store import Preprocessing, Store, prepare
from situs.views.source import Source

_SAMPLES = 8


class Timed:
    """A source that adds up the CPU time of its reads by the size read."""

    def __init__(self, source: Source, seconds: dict[tuple[int, ...], float]) -> None:
        self._source, self._seconds = source, seconds

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)

    def read(self, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """The source's crop, timed."""
        before = time.process_time()
        crop = self._source.read(start, size)
        self._seconds[tuple(size)] += time.process_time() - before
        return crop


def random_store(folder: Path, size: int) -> Store:
    """Two scans of noise over smooth structure: hard to compress, as scans are."""
    rng = np.random.default_rng(0)
    (folder / "scans").mkdir()
    for number in range(2):
        coarse = rng.normal(0, 100, (-(-size // 8),) * 3)
        array = np.kron(coarse, np.ones((8, 8, 8)))[:size, :size, :size]
        array = (array + rng.normal(0, 10, array.shape)).astype(np.int16)
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / "scans" / f"{number}.nii.gz")
    return prepare([folder / "scans"], folder / "store", Preprocessing(), workers=1)


def cpu_seconds(function: Callable[[], object]) -> float:
    before = time.process_time()
    function()
    return time.process_time() - before


def measure(store: Store, small: int, large: int) -> None:
    options = {
        "spatial": {"view_size": (small,) * 3, "chunk_size": (small // 4,) * 3},
        "mae": {"view_size": (large,) * 3},
    }
    seconds: dict[tuple[int, ...], float] = defaultdict(float)
    scans = [Timed(store[i], seconds) for i in range(len(store))]
    backbone = build(BackboneConfig())
    composition = (
        compose("spatial+mae", options).resolve_for_data(scans).resolve_for_backbone(backbone)
    )
    network = Network(backbone, composition.build_heads(backbone))
    teacher = make_teacher(network)
    views = [composition.sample([scans[0]], np.random.default_rng(0))]  # opens the files
    seconds.clear()
    sampling = cpu_seconds(
        lambda: [composition.sample([s], np.random.default_rng(i)) for i in range(4) for s in scans]
    )
    batch = default_collate(views)

    def step() -> None:
        result = composition.step(batch, network, teacher, torch.Generator().manual_seed(0))
        result.losses["total"].backward()

    step()
    for name, size in (("spatial", small), ("mae", large)):
        if (read := seconds.get((size,) * 3)) is None:
            print(f"reading for {name:8s} not at all: scans are kept decoded")
        else:
            print(f"reading for {name:8s} {1e3 * read / _SAMPLES:9.1f} ms a sample")
    print(f"all of sampling      {1e3 * sampling / _SAMPLES:9.1f} ms a sample")
    print(f"step                 {1e3 * cpu_seconds(step):9.1f} ms a sample")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, help="measure on this store instead")
    parser.add_argument("--scan", type=int, default=192, help="voxels of a random scan a side")
    parser.add_argument("--small", type=int, default=32, help="voxels of a view of spatial")
    parser.add_argument("--large", type=int, default=48, help="voxels of a view of mae")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.store:
        measure(Store.open(given.store), given.small, given.large)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(random_store(Path(folder), given.scan), given.small, given.large)


if __name__ == "__main__":
    main()
