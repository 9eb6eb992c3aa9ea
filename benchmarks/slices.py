"""Samples of ``sal`` and ``planes`` on one core, against one plane, one read and one cut at a time.

Run with one thread: ``OMP_NUM_THREADS=1 python -m benchmarks.slices``. Prints the processor time
of a sample of each method and, for the cuts of the same views, the ratio to a plain reference:
every plane reads its own box of the scan from the store and interpolates it with
``scipy.ndimage.map_coordinates``. Both cut views whole, where a sample cuts the windows about its
discs, so that cuts may take longer than the sample. Scans are random blobs of the shapes of
short-axis stacks and of small isotropic volumes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from situs import methods
from situs.geometry import Plane
from situs.store import Store, prepare
from situs.store.preprocessing import Preprocessing
from situs.views.planes import cut_planes
from situs.views.source import Source

SCANS = 8
VIRTUAL = {"studies": "virtual"}
CASES = {
    "sal, 2 pairs of 128²": ("sal", {"size": (128, 128), "spacing_mm": 2.0}, "stack"),
    "planes, 6 of 128²": ("planes", {"size": (128, 128), "spacing_mm": 0.5, **VIRTUAL}, "volume"),
    "planes, 6 of 224²": ("planes", {"size": (224, 224), "spacing_mm": 0.3, **VIRTUAL}, "volume"),
}
SHAPES = {
    "stack": ((108, 108, 10), (2.0, 2.0, 10.0)),
    "volume": ((40, 52, 38), (1.0, 1.0, 1.0)),
}


def store(folder: Path, kind: str) -> Store:
    shape, spacing = SHAPES[kind]
    rng = np.random.default_rng(0)
    paths = []
    for i in range(SCANS):
        blobs = 100 + 1000 * gaussian_filter(rng.normal(size=shape), [4 / s for s in spacing])
        paths.append(folder / f"{kind}-{i}.nii.gz")
        nib.save(nib.Nifti1Image(blobs.astype(np.float32), np.diag([*spacing, 1.0])), paths[-1])
    prepare(paths, folder / kind, Preprocessing(spacing="native"), workers=0)
    return Store.open(folder / kind)


def plain_cuts(source: Source, planes: Sequence[Plane]) -> np.ndarray:
    """One plane after the other: read the box about it, interpolate in double precision."""
    inverse = np.linalg.inv(source.affine)
    images = []
    for plane in planes:
        rows, columns = plane.shape
        points = plane.to_mm(np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1))
        vox = (points @ inverse[:3, :3].T + inverse[:3, 3]).transpose(2, 0, 1)
        limits = np.array(source.shape)
        low = np.floor(vox.min((1, 2)).clip(-1, limits)).astype(int)
        high = np.ceil(vox.max((1, 2)).clip(-1, limits)).astype(int)
        box = source.read(low.tolist(), (high - low + 1).tolist())
        images.append(
            [map_coordinates(c, vox - low[:, None, None], order=1, mode="nearest") for c in box]
        )
    return np.array(images)


def best(work: Callable[[int], object], repeats: int = 15) -> float:
    """Least processor time in seconds, over ``repeats`` numbered calls after one of each scan."""
    for i in range(SCANS):
        work(i)
    times = []
    for i in range(repeats):
        start = time.process_time()
        work(i)
        times.append(time.process_time() - start)
    return min(times)


def planes_of(batch: dict[str, torch.Tensor]) -> list[Plane]:
    """The views of a sample."""
    images = batch["slices"] if "slices" in batch else batch["images"]
    rows, columns = images.shape[-2:]
    geometry = [batch[name].reshape(-1, 3).numpy() for name in ("origin_mm", "row_mm", "column_mm")]
    pixel = batch["pixel_mm"].flatten().tolist()
    return [
        Plane(o, r, c, (rows, columns), (p, p)) for o, r, c, p in zip(*geometry, pixel, strict=True)
    ]


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        stores = {kind: list(store(Path(folder), kind)) for kind in SHAPES}
        for title, (name, options, kind) in CASES.items():
            scans = stores[kind]
            method = methods.build(name, options).resolve_for_data(scans)

            def sample(i: int, method: methods.Method = method, scans: list = scans) -> object:
                scan, rng = scans[i % SCANS], np.random.default_rng(i)
                return (
                    method.sample_study([scan], rng)
                    if method.item == "study"
                    else method.sample(scan, rng)
                )

            views = planes_of(sample(0))
            gap = np.abs(cut_planes(scans[0], views) - plain_cuts(scans[0], views)).max()
            whole = best(sample)
            fast = best(lambda i, v=views, s=scans: cut_planes(s[i % SCANS], v))
            plain = best(lambda i, v=views, s=scans: plain_cuts(s[i % SCANS], v), repeats=5)
            print(
                f"{title:22s} {1 / whole:7.0f} samples/s, {1e3 * whole:5.2f} ms, cuts "
                f"{1e3 * fast:5.2f} ms; one by one {1e3 * plain:6.1f} ms, {plain / fast:5.1f} "
                f"times as long, largest difference {gap:.0e}"
            )


if __name__ == "__main__":
    main()
