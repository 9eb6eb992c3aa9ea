"""Two processes on one CPU against one: steps and samples a second of a small pretraining.

Says what the exchange of gradients costs inside one machine, and nothing of GPUs or networks.
Every row is run in turns with the others, in a process of its own as a user starts it, one thread
a process; the first ten steps are not counted.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml
from benchmarks._page import busy

from situs.store import Preprocessing, prepare

ROWS = {"1 process, batch 4": (1, 4), "2 processes, 2 each": (2, 2), "2 processes, 4 each": (2, 4)}
WARM = 10


def settings(folder: Path) -> Path:
    """A small pretraining of 'spatial', its store beside it."""
    (folder / "scans").mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        array = 100 + rng.normal(0, 30, (48,) * 3).cumsum(0).cumsum(1).cumsum(2) / 500
        nib.save(nib.Nifti1Image(array.astype("f4"), np.eye(4)), folder / f"scans/{number}.nii")
    store = prepare([folder / "scans"], folder / "store", Preprocessing(), workers=0)
    values = {
        "method": "spatial",
        "data": str(store.path),
        "observe_every": 0,
        "observe_samples": 2,
        "observe_controls": "never",
        "checkpoint_every": 10**6,
        "log_every": WARM,
        "workers": 0,
        "threads": 1,
        "accelerator": "cpu",
        "options": {"view_size": [16] * 3, "chunk_size": [6] * 3},
        "backbone": {"name": "cnn", "options": {"channels": [16, 32, 64]}},
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(values))
    return folder / "settings.yaml"


def seconds_a_step(config: Path, out: Path, devices: int, batch: int, steps: int) -> float:
    command = [sys.executable, "-m", "situs", "pretrain", "--config", config, "--out", out]
    options = ["--devices", devices, "--batch-size", batch, "--steps", steps, "--overwrite"]
    words = [*map(str, [*command, *options]), "--quiet", "--no-report"]
    subprocess.run(words, check=True, capture_output=True)
    with (out / "metrics.csv").open() as table:
        seconds = [float(row["seconds"]) for row in csv.DictReader(table) if row["loss/total"]]
    return (seconds[-1] - seconds[0]) / (steps - WARM)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--steps", type=int, default=60)
    ask.add_argument("--turns", type=int, default=3)
    wanted = ask.parse_args()
    with tempfile.TemporaryDirectory() as name:
        config = settings(Path(name))
        times: dict[str, list[float]] = {row: [] for row in ROWS}
        loads = [busy()]
        for _ in range(wanted.turns):
            for row, (devices, batch) in ROWS.items():
                out = Path(name) / "run"
                times[row].append(seconds_a_step(config, out, devices, batch, wanted.steps))
            loads.append(busy())
    print(f"steps {WARM + 1} to {wanted.steps}, {wanted.turns} turns; {loads[0]}; {loads[-1]}")
    print(f"{'':22s} {'a step, ms':>16s} {'steps a second':>18s} {'samples a second':>18s}")
    one = times["1 process, batch 4"]
    for row, (devices, batch) in ROWS.items():
        ratios = [a / b for a, b in zip(one, times[row], strict=True)]
        samples = [devices * batch / 4 * ratio for ratio in ratios]
        low, high = 1e3 * min(times[row]), 1e3 * max(times[row])
        steps = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(
            f"{row:22s} {f'{low:.0f} to {high:.0f}':>16s} {steps:>18s} "
            f"{f'{min(samples):.2f} to {max(samples):.2f}':>18s}"
        )


if __name__ == "__main__":
    main()
