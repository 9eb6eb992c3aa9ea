"""Kill small runs of every stage at random moments and go on.

    python tests/support/kills.py KILLS [SEED] [SECONDS] [STAGE …] [--record FILE]

Each process is forked from one that has imported everything, so that the moments fall into the work
and not into imports, and ended by SIGKILL. After up to four kills a run is let go on to its end,
and must have written what an uninterrupted one did: weights, losses, scores, predictions, voxels.
Prints kills a stage, finished runs that were compared, and what differed; 1 if anything did.
FILE gets a line a finished run; called with it again, the campaign goes on, with other moments.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
_METHODS: dict[str, dict[str, object]] = {
    "spatial": _VIEWS,
    "s2dc": {"grid": [2, 1, 1], "crop_size": [8, 8, 8], "global_crops": 2, "norm": "layer"},
    "mae": {"view_size": [16, 16, 8]},
    "simclr": {"view_size": [12, 12, 8]},
    "dino": {"global_size": [12, 12, 8], "local_size": [8, 8, 4], "locals": 2, "prototypes": 16},
    "voco": {"crop_size": [8, 8, 4]},
    "sal": {"size": [16, 16], "spacing_mm": 1.0, "weights": {"pixel": 1.0}},
    "planes": {"size": [16, 16], "spacing_mm": 1.0, "studies": "virtual", "slices": 4},
}
STAGES = ["prepare", *_METHODS, "finetune", "evaluation", "predict", "study"]
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
    configs: dict[str, dict[str, object]] = {
        name: {**_PRETRAIN, "method": name, "options": options, "threads": 1, "backbone": _NETWORK}
        for name, options in _METHODS.items()
    }
    configs |= {
        "finetune": {**_FINETUNE, **parts, "train": 2, "threads": 1},
        # Windows so many that nearly all of the time is the test's.
        "evaluation": {
            **_FINETUNE,
            **parts,
            **{"steps": 2, "train": 1, "test": 6, "threads": 1, "overlap": 0.9},
        },
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
        where = folder / "images" if name in _METHODS else folder
        text = yaml.safe_dump({**config, "data": str(where)})
        (folder / f"{name}.yaml").write_text(text)


def command(stage: str, data: Path, out: Path, anew: bool) -> list[str]:
    """What a person types: at first, after a kill, or after one before there was a state."""
    if stage == "prepare":
        return ["prepare", str(data / "images"), "--out", str(out), "--quiet"]
    if stage == "study":
        return ["study", str(data / "study.yaml"), "--set", f"out={out}", "--quiet"]
    if stage == "predict":
        paths = [str(data / "model"), str(data / "images"), "--out", str(out)]
        again = ["--resume"] if out.exists() else []
        return ["predict", *paths, "--set", "overlap=0.9", "--quiet", *again]
    verb = "pretrain" if stage in _METHODS else "finetune"
    begun = out / ("run.json" if verb == "pretrain" else "begun.json")
    if begun.is_file() and not anew:
        return [verb, "--resume", str(out), "--quiet"]
    again = ["--overwrite"] if any(out.glob("[!.]*")) else []
    return [verb, "--config", str(data / f"{stage}.yaml"), "--out", str(out), "--quiet", *again]


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
        if stage == "predict" and not (data / "model").is_dir():
            self._alone("finetune", data / "model")
        whole = home / f"{stage}-whole"
        start = time.monotonic()
        self._alone(stage, whole)
        self.seconds = time.monotonic() - start
        self.expected = written(whole)
        if not self.expected:
            raise SystemExit(f"{stage} wrote nothing that can be compared")

    def _alone(self, stage: str, out: Path) -> None:
        """A run that nothing interrupts."""
        code = ended(begin(command(stage, self.data, out, False), self.log), 600)
        if code != 0:
            raise SystemExit(f"{stage} did not end well by itself ({code}): {self.log.read_text()}")

    def one(self) -> None:
        """One run, killed up to four times, then let go on to its end."""
        out = self.home / f"{self.stage}-{self.compared}"
        here, anew, refused = 0, False, 0
        while True:
            start = time.monotonic()
            child = begin(command(self.stage, self.data, out, anew), self.log)
            until = self.rng.uniform(0, 0.8 * self.seconds) if here < _MOST else 600.0
            if self.stage == "evaluation":
                _wait_for(out / "model", child)
            code = ended(child, until)
            if code is None:
                os.kill(child, signal.SIGKILL)
                code = ended(child, 60)
                killed = code == -signal.SIGKILL
                here, self.kills = here + killed, self.kills + killed
                anew = False
                continue
            if code == 0:
                # A machine that others use less than before: moments shall fall into the work.
                if not here:
                    self.seconds = min(self.seconds, time.monotonic() - start)
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


def _wait_for(file: Path, child: int) -> None:
    """Wait until a child has written a file, or has ended; its end is left to be seen."""
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while not file.exists() and os.waitid(os.P_PID, child, options) is None:
        time.sleep(0.002)


def main(kills: int, seed: int, seconds: float, stages: list[str], record: Path | None) -> int:
    """Spread the kills over the stages."""
    for name in ("cli", "store", "pretraining.process", "transfer.finetune", "transfer.predict"):
        importlib.import_module(f"situs.{name}")
    for name in ("studies", "report"):
        importlib.import_module(f"situs.{name}")
    lines = record.read_text().splitlines() if record is not None and record.is_file() else []
    rows = [json.loads(line) for line in lines]
    done = Counter({stage: 0 for stage in stages})
    for row in rows:
        done[row["stage"]] += row["kills"]
    until = time.monotonic() + seconds
    rng = np.random.default_rng([seed, len(rows)])
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "data").mkdir()
        make_data(home / "data")
        campaigns: dict[str, Campaign] = {}
        while sum(done[s] for s in stages) < kills and time.monotonic() < until:
            least = min(stages, key=lambda stage: done[stage])
            if least not in campaigns:
                campaigns[least] = Campaign(least, home / "data", home, rng)
            campaign = campaigns[least]
            before = campaign.kills
            campaign.one()
            here = campaign.kills - before
            row = {
                "stage": least,
                "kills": here,
                "files": sum(map(len, campaign.expected.values())),
                "wrong": list(campaign.wrong),
            }
            rows.append(row)
            done[least] += here
            campaign.wrong.clear()
            if record is not None:
                with record.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            if row["wrong"]:
                break
    return _tell(rows)


def _tell(rows: list[dict[str, Any]]) -> int:
    """Print what came of it; 1 where anything differed."""
    for stage in dict.fromkeys(row["stage"] for row in rows):
        of = [row for row in rows if row["stage"] == stage]
        wrong = sum(map(len, (row["wrong"] for row in of)))
        sys.stdout.write(
            f"{stage}: {sum(row['kills'] for row in of)} kills, {len(of)} runs compared in "
            f"{of[-1]['files']} files, {wrong} wrong\n"
        )
    wrong_ones = [line for row in rows for line in row["wrong"]]
    told = [f"{sum(row['kills'] for row in rows)} kills in all", *wrong_ones]
    sys.stdout.write("\n".join(told) + "\n")
    return int(bool(wrong_ones))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("kills", type=int, nargs="?", default=100)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("seconds", type=float, nargs="?", default=3600.0)
    parser.add_argument("stages", nargs="*", choices=[*STAGES, []], default=[])
    parser.add_argument("--record", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    sys.exit(main(given.kills, given.seed, given.seconds, given.stages or STAGES, given.record))
