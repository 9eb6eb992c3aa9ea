"""A worker that does no work: answers from a formula, so that scheduling can be tested alone.

With FAKE_FAIL in the environment it fails jobs whose title contains it; with FAKE_DIE it dies.
"""

import json
import os
import sys
import zlib
from pathlib import Path


def dice(config: dict, case: str) -> float:
    luck = zlib.crc32(f"{case}{config['seed']}".encode()) % 1000 / 20_000
    learned = 0.0 if "init" not in config else 0.1
    return 0.5 + 0.05 * len(config["train"]) ** 0.5 + learned - abs(config["lr"] - 0.01) + luck


for line in sys.stdin:
    folder = Path(line.strip())
    job = json.loads((folder / "job.json").read_text())
    title = f"{job['kind']} {job['title']}"
    if os.environ.get("FAKE_DIE", "\0") in title:
        os._exit(9)
    if os.environ.get("FAKE_FAIL", "\0") in title:
        sys.stdout.write("failed\n")
        sys.stdout.flush()
        continue
    config = job["config"]
    result = {"kind": job["kind"], "about": job["about"], "seconds": 1.0, "peak_memory_mib": 10}
    if job["kind"] == "store":
        result["rules"] = {**config["rules"], "spacing": [1.0, 1.0, 1.0]}
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
    sys.stdout.write("done\n")
    sys.stdout.flush()
