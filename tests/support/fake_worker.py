"""A worker that does no work: answers from a formula, so that scheduling can be tested alone.

With FAKE_CLAIM in the environment it holds each job's folder as the true one does; with FAKE_FAIL
it fails jobs whose title contains it, with FAKE_DIE it dies; trainings whose title contains one of
FAKE_DIVERGE (``;`` between them) diverge, and what begins with one that did.
"""

import json
import os
import sys
import time
import zlib
from pathlib import Path


def dice(config: dict, case: str) -> float:
    luck = zlib.crc32(f"{case}{config['seed']}".encode()) % 1000 / 20_000
    learned = 0.0 if "init" not in config else 0.1
    rate = abs(config.get("lr", 0.01) - 0.01)
    return 0.5 + 0.05 * len(config["train"]) ** 0.5 + learned - rate + luck


def diverges(title: str) -> bool:
    return any(part in title for part in os.environ.get("FAKE_DIVERGE", "\0").split(";"))


def begins_with_diverged(config: dict) -> bool:
    started = Path(config.get("init", "none")).parent / "result.json"
    return started.is_file() and json.loads(started.read_text()).get("diverged", False)


def carry_out(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    title = f"{job['kind']} {job['title']}"
    if os.environ.get("FAKE_DIE", "\0") in title:
        os._exit(9)
    if os.environ.get("FAKE_FAIL", "\0") in title:
        raise ValueError(title)
    with (folder.parent / "begun.txt").open("a") as stream:
        stream.write(f"{os.getppid()} {title}\n")
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
    config = job["config"]
    result = {"kind": job["kind"], "about": job["about"], "seconds": 1.0, "peak_memory_mib": 10}
    if job["kind"] == "store":
        result["rules"] = {**config["rules"], "spacing": [1.0, 1.0, 1.0]}
    elif diverges(title) or begins_with_diverged(config):
        result |= {"cases": [], "diverged": True}
    elif job["kind"] == "pretrain":
        result["scores"] = {"gap_mae": 3.0}
    else:
        organ = {"name": "organ", "presence": "both"}
        scores = {case: dice(config, case) for case in config["test"]}
        result["cases"] = [
            {"case": case, **organ, "dice": str(score), "hd95_mm": str(9 - 10 * score)}
            for case, score in scores.items()
        ]
    with (folder.parent / "order.txt").open("a") as stream:
        stream.write(title + "\n")
    unfinished = folder / "result.json.part"  # the scheduler looks while others still write
    unfinished.write_text(json.dumps(result))
    unfinished.replace(folder / "result.json")


def answer(folder: Path) -> str:
    try:
        carry_out(folder)
    except ValueError:
        return "failed"
    return "done"


if __name__ == "__main__":
    if "FAKE_CLAIM" in os.environ:  # the true protocol; forked, its imports are there
        from situs.studies.worker import serve

        serve(carry_out)
    for line in sys.stdin:
        sys.stdout.write(answer(Path(line.strip())) + "\n")
        sys.stdout.flush()
