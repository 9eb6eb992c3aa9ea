"""A store behind a URL against the same one on the disk: its index of 100,000 scans, and crops.

The server is moto's, which answers as S3 does, in a process of this machine: what is measured is
what situs and its client do, and how many requests they make, not a network. Needs the extra
``dev``. Times are of the wall clock; the disk's files are in the page cache.
"""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import fsspec
import nibabel as nib
import numpy as np
from benchmarks._page import busy
from moto.server import ThreadedMotoServer

from situs.store import Preprocessing, Record, Store, prepare
from situs.store.cache import open_array
from situs.store.paths import HEAD, RECORDS, REFUSED, array_file, sums_file
from situs.store.record import Head, sealed

SCANS = 100_000
DRAWN = 60
CROP = (64, 64, 64)


def serve(port: Connection) -> None:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port.send(server.get_host_and_port()[1])
    time.sleep(10**6)


def write_store(folder: Path) -> tuple[Path, list[int]]:
    """A store of many scans that are one, of 192³ voxels; files are there of those drawn."""
    rng = np.random.default_rng(0)
    noise = rng.normal(1000, 50, (192,) * 3).astype(np.int16)
    nib.save(nib.Nifti1Image(noise, np.eye(4)), folder / "scan.nii.gz")
    preprocessing = Preprocessing(spacing="native", crop=False)
    (scan,) = prepare([folder / "scan.nii.gz"], folder / "one", preprocessing, workers=0)
    many = folder / "many"
    many.mkdir()
    lines = [
        Record.model_construct(**{**scan.record.__dict__, "key": f"{n:016x}"}).model_dump_json()
        for n in range(SCANS)
    ]
    (many / RECORDS).write_text("\n".join(lines) + "\n")
    (many / REFUSED).touch()
    (many / HEAD).write_text(sealed(Head(rules=preprocessing, complete=True, scans=SCANS)))
    drawn = rng.choice(SCANS, DRAWN, replace=False).tolist()
    source = array_file(scan.store, scan.key)
    for number in drawn:
        file = array_file(many, f"{number:016x}")
        file.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, file)
        os.link(sums_file(source), sums_file(file))
    return many, drawn


def timed(do: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the wall clock, and of this process on a processor."""
    begun, busy_until = time.perf_counter(), time.process_time()
    do()
    return time.perf_counter() - begun, time.process_time() - busy_until


def middle(times: list[tuple[float, float]]) -> tuple[float, float]:
    wall, processor = zip(*times, strict=True)
    return statistics.median(wall), statistics.median(processor)


def measure(place: str | Path, drawn: list[int]) -> dict[str, tuple[float, float]]:
    """Opening, opening again, and the median first and second crop of a scan."""
    open_array.cache_clear()
    opened = timed(lambda: Store.open(place))
    again = timed(lambda: Store.open(place))
    store, rng = Store.open(place), np.random.default_rng(1)
    first, second = [], []
    for number in drawn:
        scan, start = store[number], rng.integers(0, 192 - 64, 3).tolist()
        first.append(timed(lambda scan=scan, start=start: scan.read(start, CROP)))
        second.append(timed(lambda scan=scan, start=start: scan.read(start, CROP)))
    return {
        "opened": opened,
        "opened again": again,
        "first crop of a scan": middle(first),
        "the same crop again": middle(second),
    }


def main() -> None:
    ours, theirs = get_context("spawn").Pipe()
    server = get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ours.recv()}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["SITUS_CACHE"] = str(folder / "cache")
        many, drawn = write_store(folder)
        fs, _ = fsspec.core.url_to_fs("s3://benchmark")
        fs.mkdir("benchmark")
        fs.put(f"{many}/", "benchmark/store/", recursive=True)
        print(
            f"index of {SCANS} scans, {(many / RECORDS).stat().st_size / 2**20:.0f} MiB; {busy()}"
        )
        disk, remote = measure(many, drawn), measure("s3://benchmark/store", drawn)
        print("ms of the wall clock (of the processor)")
        print(f"{'':22s} {'disk':>16s} {'S3':>16s}")
        for what in disk:
            cells = [f"{1e3 * w:.0f} ({1e3 * p:.0f})" for w, p in (disk[what], remote[what])]
            print(f"{what:22s} {cells[0]:>16s} {cells[1]:>16s}")
        kept = sum(f.stat().st_blocks * 512 for f in (folder / "cache").rglob("*.b2nd"))
        whole = array_file(many, f"{drawn[0]:016x}").stat().st_size * DRAWN
        print(f"fetched of {DRAWN} scans: {kept / 2**20:.0f} of {whole / 2**20:.0f} MiB")
    server.terminate()


if __name__ == "__main__":
    main()
