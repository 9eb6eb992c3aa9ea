"""What every method learns of anatomy: its scores beside those of scans that hold none.

Run `python -m benchmarks.anatomy STORE --out FOLDER`: each method is pretrained on the store with
a small network and one thread, observed on held-out scans, and trained again on emptied and on
shuffled scans (`situs audit`). Prints two tables: every score beside its references, and the share
of the encoder and decoder that each loss term reaches. What is finished is not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import situs
from situs.observation import Observation, Score
from situs.pretraining.audit import audit
from situs.text import number
from situs.training.run import Run

Methods = dict[str, tuple[str, dict[str, Any], int]]


def configurations(
    view: list[int], chunk: list[int], grid: list[int], crop: list[int], **sizes: Any
) -> Methods:
    """Configuration → method, options and scans a step, of views of the given voxels."""
    spatial, tiles = {"view_size": view, "chunk_size": chunk}, {"grid": grid, "crop_size": crop}
    return {
        "spatial": ("spatial", spatial, 8),
        "spatial, voxel": ("spatial", {**spatial, "weights": {"voxel": 1}}, 8),
        "s2dc": ("s2dc", tiles, 4),
        "sal": ("sal", {}, 8),
        "sal, pixel": ("sal", {"weights": {"local": 0, "spread": 0, "pixel": 1}}, 8),
        "planes": ("planes", {}, 8),
        "mae": ("mae", {"view_size": sizes["mae"]}, 4),
        "simclr": ("simclr", {"view_size": sizes["whole"]}, 8),
        "voco": ("voco", tiles, 4),
        "dino": ("dino", {"global_size": sizes["whole"], "local_size": sizes["part"]}, 8),
    }


# Sized so that a step sees 100,000 to 260,000 voxels: nearly cubic voxels, and few thick slices.
VOLUMES = configurations(
    [16] * 3, [6] * 3, [2] * 3, [16] * 3, mae=[32, 40, 32], whole=[24] * 3, part=[16] * 3
)
STACKS = configurations(
    [32, 32, 8],
    [8, 8, 4],
    [2, 2, 1],
    [32, 32, 8],
    mae=[64, 64, 8],
    whole=[48, 48, 8],
    part=[24, 24, 8],
)
BACKBONE = {"name": "cnn", "options": {"channels": [8, 16, 32, 64]}}


def run_of(name: str, methods: Methods, given: argparse.Namespace) -> Run:
    """The finished run of a configuration, gone on with or begun where there is none."""
    method, options, batch = methods[name]
    out = given.out / name.replace(", ", "-")
    begun = time.process_time()
    situs.pretrain(
        {
            "method": method,
            "data": given.store,
            "out": out,
            "options": options,
            "backbone": BACKBONE,
            "steps": given.steps,
            "batch_size": batch,
            "workers": 0,
            "threads": 1,
            "observe_every": 0,
            "observe_samples": 64,
            "optimiser": {"lr": given.lr},
            "seed": given.seed,
        },
        mode="resume" if out.exists() else "new",
        quiet=True,
    )
    if given.audit and not (out / "audit.json").is_file():
        audit(out, given.audit, quiet=True)
    print(f"{name}: {time.process_time() - begun:.0f} s", flush=True)
    return Run.open(out)


def rows(name: str, run: Run, observation: Observation) -> list[str]:
    """A row of the table for each score that is learned."""
    file = run.path / "audit.json"
    audited = json.loads(file.read_text())["scores"] if file.is_file() else {}
    found = []
    for score in observation.scores.values():
        if score.by_construction or score.collapsed is not None:
            continue
        again = audited.get(score.name, {})
        values = [
            score.value,
            score.emptied,
            score.shuffled,
            again.get("emptied"),
            again.get("shuffled"),
            score.untrained,
            score.constant,
            score.chance,
        ]
        found.append(
            f"| {name} | `{score.name}`{unit(score)} | {' | '.join(map(number, values))} |"
        )
    return found


def unit(score: Score) -> str:
    """The score's unit behind its name."""
    return f", {score.unit}" if score.unit else ""


def main() -> None:
    """Run what is not finished, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stacks", action="store_true", help="the scans are a few thick slices")
    parser.add_argument("--only", nargs="*", help="configurations to run")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--audit", type=float, default=0.5, help="share of the steps; 0 for none")
    given = parser.parse_args()
    methods = STACKS if given.stacks else VOLUMES
    scores, reach = [], []
    for name in given.only or methods:
        run = run_of(name, methods, given)
        for observation in run.observations():
            scores += rows(name, run, observation)
            reach += [
                f"| {name} | `{r.term}` | {r.encoder:.0f} | {r.decoder:.0f} |"
                for r in observation.reach
            ]
    heads = ["real", "emptied", "shuffled", "trained on emptied", "on shuffled", "untrained"]
    print("\n| configuration | score |", " | ".join([*heads, "constant", "guessing"]), "|")
    print("| --- | --- |", " | ".join(["--:"] * 8), "|")
    print("\n".join(scores))
    print("\n| configuration | term | encoder, % | decoder, % |\n| --- | --- | --: | --: |")
    print("\n".join(reach))


if __name__ == "__main__":
    main()
