"""Memory of a long pretraining: 10,000 steps, the main process and its loader.

``OMP_NUM_THREADS=1 python -m benchmarks.memory [STEPS]``. Views and network are tiny, so that a
step takes little; states and observations come as often as in a run of that length. What is held
(RSS, and of the loader what it shares with nobody) is read at every hundredth of the steps; a line
through the second half tells what a further 10,000 steps would add.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytorch_lightning as pl

from situs.pretraining.callbacks import DataClock
from situs.pretraining.pretrain import pretrain
from situs.store import prepare

STEPS = 10_000
SCANS = 8


def write_scans(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(SCANS):
        array = rng.normal(100, 20, (24, 22, 20)).astype(np.float32)
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"scan{number}.nii.gz")


def mebibytes(process: int | str, kind: str) -> float:
    """Of a process: ``Rss``, or ``Private_Dirty``, which it shares with no other."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) / 1024


def children() -> list[int]:
    return [int(pid) for pid in Path("/proc/thread-self/children").read_text().split()]


def watch(rows: list[tuple[int, float, float]]) -> None:
    """Let the last callback of every run look at memory, too."""
    real = DataClock.on_train_batch_end

    def look(self: DataClock, trainer: pl.Trainer, *rest: Any) -> None:
        step, every = trainer.global_step, max(1, trainer.max_steps // 100)
        if step % every == 0:
            loader = sum(mebibytes(child, "Private_Dirty") for child in children())
            rows.append((step, mebibytes("self", "Rss"), loader))
        real(self, trainer, *rest)

    DataClock.on_train_batch_end = look  # type: ignore[method-assign]


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else STEPS
    found: list[tuple[int, float, float]] = []
    watch(found)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "scans").mkdir()
        write_scans(folder / "scans")
        store = prepare(folder / "scans", folder / "store", workers=0)
        begun = time.perf_counter()
        pretrain(
            {
                "data": str(store.path),
                "out": str(folder / "run"),
                "method": "spatial",
                "options": {"view_size": [8, 8, 8], "chunk_size": [2, 2, 2], "width": 8},
                "backbone": {"name": "cnn", "options": {"channels": [4, 8]}},
                "steps": steps,
                "batch_size": 1,
                "workers": 1,
                "threads": 1,
                "observe_every": max(1, steps // 40),
                "observe_samples": 4,
                "checkpoint_every": max(1, steps // 40),
                "log_every": 10,
            },
            quiet=True,
        )
        seconds = time.perf_counter() - begun
    print(f"{steps} steps in {seconds / 60:.1f} min, 40 observations, 40 states")
    rows = np.array(found)
    print("   step   main MiB   loader MiB")
    for step, main_mib, loader in rows[:: max(1, len(rows) // 10)]:
        print(f"{step:7.0f} {main_mib:10.1f} {loader:12.1f}")
    late = rows[len(rows) // 2 :]
    for column, what in ((1, "main"), (2, "loader")):
        slope = np.polyfit(late[:, 0], late[:, column], 1)[0] * 10_000
        print(f"{what}: {slope:+.1f} MiB for 10,000 steps, by its second half")


if __name__ == "__main__":
    main()
