"""Kill small prepares, pretrainings, fine-tunings and studies at random moments and go on.

    python tests/support/kills.py KILLS [SEED] [SECONDS] [STAGE …]

Each process is forked from one that has imported everything, so that the moments fall into the work
and not into imports, and ended by SIGKILL. After up to four kills a run is let go on to its end,
and must have written what an uninterrupted one did: weights, losses, scores, predictions, voxels.
Prints kills a stage, finished runs that were compared, and what differed; 1 if anything did.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml

_MOST = 4  # kills of one run
_COSTS = (
    "seconds",
    "data_wait_share",
    "_mib",
    "_kj",
)  # of time, memory and energy: no two runs have the same
_NETWORK = {"name": "cnn", "options": {"channels": [4, 8]}}
_VIEWS = {"view_size": [12, 12, 8], "chunk_size": [4, 4, 4], "width": 8}
_FINETUNE = {"steps": 12, "patch_size": [16, 16, 8], "checkpoint_every": 3, "validate_every": 4}
_PRETRAIN = {"steps": 12, "batch_size": 2, "workers": 0, "checkpoint_every": 3, "log_every": 1}
_PRETRAIN |= {"observe_every": 6, "observe_samples": 2}
_NOTHING_YET = re.compile(r"no resumable state|holds no fine-tuning that can be resumed")


def make_data(folder: Path) -> None:
    """Eight cases with one organ, and the configurations of all stages."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for case in range(8):
        label = np.zeros((18, 16, 12), np.uint8)
        x, y, z = rng.integers(2, 8, 3)
        label[x : x + 6, y : y + 6, z : z + 4] = 1
        image = (100 * rng.normal(0, 0.3, label.shape) + 300.0 * label).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / f"images/c{case}.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / f"labels/c{case}.nii.gz")
    method = {"method": "spatial", "options": _VIEWS}
    parts = {"test": 2, "validation": 1, "backbone": _NETWORK}
    configs = {
        "pretrain": {**_PRETRAIN, **method, "threads": 1, "backbone": _NETWORK},
        "finetune": {**_FINETUNE, **parts, "train": 2, "threads": 1},
        "study": {
            **parts,
            "arms": ["none", method],
            "labels": [2],
            "seeds": [0],
            "processes": 1,
            "pretrain": _PRETRAIN,
            "finetune": {k: v for k, v in _FINETUNE.items() if k != "validate_every"},
        },
    }
    for name, config in configs.items():
        where = folder / "images" if name == "pretrain" else folder
        text = yaml.safe_dump({**config, "data": str(where)})
        (folder / f"{name}.yaml").write_text(text)


def command(stage: str, data: Path, out: Path, anew: bool) -> list[str]:
    """What a person types: at first, after a kill, or after one before there was a state."""
    if stage == "prepare":
        return ["prepare", str(data / "images"), "--out", str(out), "--quiet"]
    if stage == "study":
        return ["study", str(data / "study.yaml"), "--set", f"out={out}", "--quiet"]
    begun = out / ("run.json" if stage == "pretrain" else "begun.json")
    if begun.is_file() and not anew:
        return [stage, "--resume", str(out), "--quiet"]
    again = ["--overwrite"] if any(out.glob("[!.]*")) else []
    return [stage, "--config", str(data / f"{stage}.yaml"), "--out", str(out), "--quiet", *again]


def begin(arguments: list[str], log: Path) -> int:
    """The process of a command, in a session of its own."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        told = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(told, 1)
        os.dup2(told, 2)
        sys.argv = ["situs", *arguments]
        try:
            importlib.import_module("situs.cli").main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(child: int, seconds: float) -> int | None:
    """The exit code of a child, or None where it still runs after so long."""
    until = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.002)


def written(out: Path) -> dict[str, list[str]]:
    """Digests of everything computed, by the name of its file; costs are left out."""
    readers: dict[str, Callable[[Path], bytes]] = {
        ".safetensors": Path.read_bytes,
        ".b2nd": Path.read_bytes,
        ".npy": Path.read_bytes,
        ".gz": lambda file: gzip.decompress(file.read_bytes()),
        ".csv": _rows,
    }
    found: dict[str, list[str]] = {}
    for file in sorted(out.rglob("*")):
        # What a killed writer had begun has a passing name, and is deleted an hour later.
        if file.is_file() and file.suffix in readers and not file.name.startswith("."):
            digest = hashlib.sha256(readers[file.suffix](file)).hexdigest()
            found.setdefault(file.name, []).append(digest)
    return {name: sorted(digests) for name, digests in found.items()}


def _rows(file: Path) -> bytes:
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    kept = [{k: v for k, v in row.items() if not k.endswith(_COSTS)} for row in rows]
    return repr(kept).encode()


class Campaign:
    """Kills of one stage."""

    def __init__(self, stage: str, data: Path, home: Path, rng: np.random.Generator) -> None:
        self.stage, self.data, self.home, self.rng = stage, data, home, rng
        self.kills = self.compared = 0
        self.wrong: list[str] = []
        self.log = home / f"{stage}.log"
        start = time.monotonic()
        whole = home / f"{stage}-whole"
        code = ended(begin(command(stage, data, whole, False), self.log), 300)
        if code != 0:
            raise SystemExit(f"{stage} did not end well by itself ({code}): {self.log.read_text()}")
        self.seconds = time.monotonic() - start
        self.expected = written(whole)
        if not self.expected:
            raise SystemExit(f"{stage} wrote nothing that can be compared")

    def one(self) -> None:
        """One run, killed up to four times, then let go on to its end."""
        out = self.home / f"{self.stage}-{self.compared}"
        here, anew, refused = 0, False, 0
        while True:
            child = begin(command(self.stage, self.data, out, anew), self.log)
            until = self.rng.uniform(0, 0.8 * self.seconds) if here < _MOST else 300.0
            code = ended(child, until)
            if code is None:
                os.kill(child, signal.SIGKILL)
                code = ended(child, 60)
                killed = code == -signal.SIGKILL
                here, self.kills = here + killed, self.kills + killed
                anew = False
                continue
            if code == 0:
                break
            said = self.log.read_text()
            refused += 1
            anew = bool(_NOTHING_YET.search(said))
            if refused > 20 or not (anew or "in use" in said):
                self.wrong.append(f"{self.stage} after {here} kills, exit code {code}: {said}")
                return
            time.sleep(0 if anew else 0.5)
        self.compared += 1
        found = written(out)
        names = sorted(n for n in found | self.expected if found.get(n) != self.expected.get(n))
        if names:
            self.wrong.append(f"{self.stage} after {here} kills, other contents: {names}")
        shutil.rmtree(out)


def main(kills: int, seed: int, seconds: float, stages: list[str]) -> int:
    """Spread the kills over the stages."""
    for name in ("cli", "store", "pretraining.process", "transfer.finetune", "study", "report"):
        importlib.import_module(f"situs.{name}")
    until = time.monotonic() + seconds
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "data").mkdir()
        make_data(home / "data")
        campaigns = [Campaign(stage, home / "data", home, rng) for stage in stages]
        while sum(c.kills for c in campaigns) < kills and time.monotonic() < until:
            least = min(campaigns, key=lambda c: c.kills)
            least.one()
            if least.wrong:
                break
    lines = [
        f"{c.stage}: {c.kills} kills, {c.compared} finished runs compared in "
        f"{sum(map(len, c.expected.values()))} files, {len(c.wrong)} wrong"
        for c in campaigns
    ]
    wrong = [line for c in campaigns for line in c.wrong]
    lines += [f"{sum(c.kills for c in campaigns)} kills in all", *wrong]
    sys.stdout.write("\n".join(lines) + "\n")
    return int(bool(wrong))


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(
        main(
            int(given[0]) if given else 100,
            int(given[1]) if len(given) > 1 else 0,
            float(given[2]) if len(given) > 2 else 3600.0,
            given[3:] or ["prepare", "pretrain", "finetune", "study"],
        )
    )
