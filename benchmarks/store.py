"""Random crops from a store, against reading whole volumes; and an index of 100,000 scans.

Run with one thread: ``OMP_NUM_THREADS=1 python -m benchmarks.store``. The volume is smooth
structure with noise, 256³ voxels. Times are the processor's, files are in the page cache: what
is compared is decompressing and copying; a disk would widen the gap between crops and volumes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from situs.demo.warps import smooth_field
from situs.store import Preprocessing, Record, Store, StoredScan, chunks, prepare
from situs.store.crop import crop_padded
from situs.store.paths import array_file
from situs.store.record import Head, sealed
from situs.store.store import RECORDS

SIZE = 256
CROPS = (32, 64, 96)
SCANS = 100_000


def write_scan(path: Path) -> None:
    rng = np.random.default_rng(0)
    coarse = sum(smooth_field([SIZE] * 3, s, rng)[0] * s for s in (2.0, 6.0))
    array = 1000 + 100 * coarse + rng.normal(0, 30, coarse.shape)
    nib.save(nib.Nifti1Image(array.astype(np.int16), np.eye(4)), path)


def milliseconds(read: Callable[[list[int], int], np.ndarray], size: int, repeats: int) -> float:
    """Median processor time of a crop at a random place."""
    rng = np.random.default_rng(1)
    times = []
    for _ in range(repeats):
        start = rng.integers(0, SIZE - size, 3).tolist()
        begun = time.process_time()
        read(start, size)
        times.append(time.process_time() - begun)
    return 1e3 * float(np.median(times))


def crops(folder: Path) -> None:
    write_scan(folder / "scan.nii.gz")
    begun = time.process_time()
    preprocessing = Preprocessing(spacing="native", crop=False)
    scan = prepare([folder / "scan.nii.gz"], folder / "store", preprocessing, workers=0)[0]
    seconds = time.process_time() - begun
    print(f"catalog and store of one scan of {SIZE}³: {seconds:.1f} s of processor time")
    np.save(folder / "scan.npy", scan.array().astype(np.float16))

    def cut(array: np.ndarray, start: list[int], size: int) -> np.ndarray:
        box = tuple(slice(s, s + size) for s in start)
        return array[(..., *box)].astype(np.float32)

    ways: dict[str, Callable[[list[int], int], np.ndarray]] = {
        "store": lambda start, size: scan.read(start, (size,) * 3),
        "whole store": lambda start, size: cut(scan.array(), start, size),
        "whole .npy": lambda start, size: cut(np.load(folder / "scan.npy"), start, size),
        "mapped .npy": lambda start, size: cut(
            np.load(folder / "scan.npy", mmap_mode="r"), start, size
        ),
        "whole .nii.gz": lambda start, size: cut(
            np.asarray(nib.load(folder / "scan.nii.gz").dataobj), start, size
        ),
    }
    sizes = {
        "store": scan.record.bytes,
        "whole store": scan.record.bytes,
        "whole .npy": (folder / "scan.npy").stat().st_size,
        "mapped .npy": (folder / "scan.npy").stat().st_size,
        "whole .nii.gz": (folder / "scan.nii.gz").stat().st_size,
    }
    print(f"{'':14s}  {'MiB':>6s}" + "".join(f"{f'{n}³ ms':>11s} {'ratio':>6s}" for n in CROPS))
    base: dict[int, float] = {}
    for name, read in ways.items():
        row = f"{name:14s}  {sizes[name] / 2**20:6.1f}"
        for size in CROPS:
            ms = milliseconds(read, size, 8 if name.startswith("whole") else 60)
            base.setdefault(size, ms)
            row += f"{ms:11.2f} {ms / base[size]:6.1f}"
        print(row, flush=True)


def checksums(folder: Path) -> None:
    """What the checks of chunks add to reading, over the crops that a process takes of a scan.

    Each chunk is checked once in a process. Checks and reading are timed each by itself, in turns:
    the difference of two times of reading would be less than what other processes change of them.
    """
    (scan,) = Store.open(folder / "store")
    file = array_file(scan.store, scan.key)
    rng = np.random.default_rng(2)
    starts = rng.integers(0, SIZE - 96, (80, 3)).tolist()

    def seconds(crops: list[tuple[list[int], int]], checked: bool) -> float:
        chunks._WHOLE.clear()
        sums = scan.record.sums if checked else ""
        array = chunks.StoredArray(file, scan.record.bytes, scan.record.checksum, sums)
        begun = time.process_time()
        for start, size in crops:
            if checked:
                box = (slice(0, 1), *(slice(s, s + size) for s in start))
                array._check(array._touched(box))
            else:
                crop_padded(array, start, (size,) * 3)  # as every reader of a store does
        return time.process_time() - begun

    for count in (0, 1, 5, 20, 80):
        crops = [(start, 96) for start in starts[:count]] or [([0, 0, 0], SIZE)]
        rounds = [(seconds(crops, True), seconds(crops, False)) for _ in range(9)]
        checks, reading = (min(times) for times in zip(*rounds, strict=True))
        what = f"{count} crops of 96³" if count else "the whole scan"
        print(f"checksums over {what}: {checks / reading:.1%} of {1e3 * reading:.0f} ms")


def index(folder: Path) -> None:
    """Opening a store of many scans, without their voxels."""
    record = Store.open(folder / "store")[0].record
    many = folder / "many"
    many.mkdir()
    with (many / RECORDS).open("w") as file:
        for number in range(SCANS):
            file.write(
                Record.model_construct(
                    **{**record.__dict__, "key": f"{number:016x}"}
                ).model_dump_json()
                + "\n"
            )
    (many / "refused.jsonl").touch()
    head = Head(rules=Preprocessing(), complete=True, scans=SCANS)
    (many / "store.json").write_text(sealed(head))
    begun = time.process_time()
    store = Store.open(many)
    opened = time.process_time() - begun
    begun = time.process_time()
    scans: list[StoredScan] = [store[i] for i in range(SCANS)]
    listed = time.process_time() - begun
    size = (many / RECORDS).stat().st_size / 2**20
    print(
        f"index of {len(scans)} scans: {size:.0f} MiB, opened in {opened:.2f} s, "
        f"listed in {listed:.2f} s of processor time"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        crops(Path(name))
        checksums(Path(name))
        index(Path(name))


if __name__ == "__main__":
    main()
