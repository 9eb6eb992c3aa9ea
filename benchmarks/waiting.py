"""How long ``situs pretrain`` waits for samples, with as many loader processes as it chooses.

``python -m benchmarks.waiting [--store STORE] [METHOD …]``. Each method trains a few steps with the
convolutional network of its defaults, ``workers: auto`` and as many threads as situs chooses, in a
process of its own, as a user starts it. Shares are of the time from the tenth step to the last:
before it the loader processes start. Without a store one of made scans of 96 × 96 × 64 is read. On
a busy machine the shares are upper bounds: a sample that waits for a core is waited for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml
from benchmarks._page import busy

from situs.methods import available
from situs.store import Preprocessing, prepare
from situs.training.run import Run

WARM = 10


def made_store(folder: Path) -> Path:
    """Eight smooth scans, so that none is too small for any method."""
    (folder / "scans").mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        array = 100 + rng.normal(0, 30, (96, 96, 64)).cumsum(0).cumsum(1).cumsum(2) / 500
        nib.save(nib.Nifti1Image(array.astype("f4"), np.eye(4)), folder / f"scans/{number}.nii")
    return prepare([folder / "scans"], folder / "store", Preprocessing(), workers=0).path


def run_of(method: str, store: Path, folder: Path, steps: int) -> Run:
    """A short training."""
    values = {
        "method": method,
        "data": str(store),
        "steps": steps,
        "workers": "auto",
        "accelerator": "cpu",
        "log_every": WARM,
        "observe_every": 0,
        "observe_samples": 2,
        "observe_controls": "never",
        "checkpoint_every": 10**6,
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "situs", "pretrain", "--config", str(folder / "settings.yaml")]
    out = folder / method
    subprocess.run(
        [*command, "--out", str(out), "--quiet", "--no-report"], check=True, capture_output=True
    )
    return Run.open(out)


def waited(run: Run) -> tuple[float, float]:
    """Seconds a step, and the share of them spent waiting, both after the first steps."""
    rows = [row for row in run.metrics() if "loss/total" in row]
    first, last = rows[0], rows[-1]
    seconds = last["seconds"] - first["seconds"]
    each = seconds / (last["step"] - first["step"])
    # A row's share is of the time until its step began.
    idle = [row["data_wait_share"] * (row["seconds"] - each) for row in (first, last)]
    return each, (idle[1] - idle[0]) / seconds


def main() -> None:
    """One line a method."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("methods", nargs="*")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--steps", type=int, default=6 * WARM)
    asked = parser.parse_args()
    print(f"{'method':10s}{'s a step':>10s}{'threads':>9s}{'waits':>9s}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = asked.store or made_store(folder)
        for method in asked.methods or available():
            run = run_of(method, store, folder, asked.steps)
            each, share = waited(run)
            threads = run.record.hardware.threads
            print(f"{method:10s}{each:10.2f}{threads:9d}{100 * share:8.1f} %", flush=True)
    print(busy())


if __name__ == "__main__":
    main()
