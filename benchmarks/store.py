"""Random crops from a store, against whole volumes and mapped arrays; and stores of many scans.

Run with one thread: ``OMP_NUM_THREADS=1 python -m benchmarks.store``. The volume is smooth
structure with noise, 256³ voxels. Times are the processor's, files are in the page cache: what
is compared is decompressing and copying; a disk would widen the gap between crops and volumes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import get_args

import nibabel as nib
import numpy as np

from situs.demo.warps import smooth_field
from situs.files import sha256
from situs.store import Preprocessing, Record, Store, chunks, prepare
from situs.store.crop import crop_padded
from situs.store.paths import HEAD, RECORDS, REFUSED, array_file, sums_file
from situs.store.preprocessing import Compression
from situs.store.record import Head, sealed

SIZE = 256
CROPS = (32, 64, 96)
SCANS = (1_000, 10_000, 100_000)
DRAWN = 20


def write_scan(path: Path) -> None:
    rng = np.random.default_rng(0)
    coarse = sum(smooth_field([SIZE] * 3, s, rng)[0] * s for s in (2.0, 6.0))
    array = 1000 + 100 * coarse + rng.normal(0, 30, coarse.shape)
    nib.save(nib.Nifti1Image(array.astype(np.int16), np.eye(4)), path)


Read = Callable[[list[int], int], np.ndarray]


def milliseconds(ways: dict[str, Read], size: int, repeats: int) -> dict[str, float]:
    """Median processor time of a crop at a random place, each place read in all ways.

    In an order drawn anew: what one way leaves in caches and in the allocator, each may find.
    """
    rng, order = np.random.default_rng(1), np.random.default_rng(2)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        start = rng.integers(0, SIZE - size, 3).tolist()
        for name in order.permutation(list(ways)):
            begun = time.process_time()
            ways[name](start, size)
            times[name].append(time.process_time() - begun)
    return {name: 1e3 * float(np.median(found)) for name, found in times.items()}


def cut(array: np.ndarray, start: list[int], size: int) -> np.ndarray:
    """A crop in float32, widened by torch as the store's are: NumPy takes three times as long."""
    return crop_padded(array, start, (size,) * 3)


def crops(folder: Path) -> None:
    write_scan(folder / "scan.nii.gz")
    scans = {}
    for name in get_args(Compression):
        begun = time.process_time()
        rules = Preprocessing(spacing="native", crop=False, compression=name)
        out = folder / ("store" if name == "lz4" else name)
        scans[name] = prepare([folder / "scan.nii.gz"], out, rules, workers=0)[0]
        seconds = time.process_time() - begun
        print(
            f"catalog and store of one scan of {SIZE}³, {name}: {seconds:.1f} s of processor time"
        )
    scan, whole = scans["lz4"], scans["lz4"].array()
    assert all(np.array_equal(whole, other.array()) for other in scans.values())
    np.save(folder / "float32.npy", whole)
    np.save(folder / "halves.npy", whole.astype(np.float16))
    # Mapped so that torch takes them; nothing is written.
    halves, mapped = (np.load(folder / f"{n}.npy", mmap_mode="c") for n in ("halves", "float32"))
    ways: dict[str, Read] = {
        "mapped halves": lambda start, size: cut(halves, start, size),
        "mapped float32": lambda start, size: cut(mapped, start, size),
        **{
            f"store, {name}": lambda start, size, scan=scan: scan.read(start, (size,) * 3)
            for name, scan in scans.items()
        },
    }
    wholly: dict[str, Read] = {
        "whole store": lambda start, size: cut(scan.array(), start, size),
        "whole .npy": lambda start, size: cut(np.load(folder / "halves.npy"), start, size),
        "whole .nii.gz": lambda start, size: cut(
            np.asarray(nib.load(folder / "scan.nii.gz").dataobj, np.float32)[None], start, size
        ),
    }
    table = [milliseconds(ways, n, 120) | milliseconds(wholly, n, 8) for n in CROPS]
    sizes = {"mapped halves": 0.5, "mapped float32": 1.0}
    sizes |= {f"store, {name}": scan.record.bytes / whole.nbytes for name, scan in scans.items()}
    sizes |= {"whole store": sizes["store, lz4"], "whole .npy": 0.5}
    sizes["whole .nii.gz"] = (folder / "scan.nii.gz").stat().st_size / whole.nbytes
    print("Size beside float32; milliseconds a crop; speed beside mapped halves.")
    print(f"{'':14s}   size" + "".join(f"{f'{n}³ ms':>9s}  speed" for n in CROPS))
    for name, size in sizes.items():
        cells = [f"{row[name]:9.2f} {row['mapped halves'] / row[name]:6.2f}" for row in table]
        print(f"{name:14s} {size:6.3f}" + "".join(cells), flush=True)


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
                array._check(piece for piece, *_ in array._touched(box))
            else:
                crop_padded(array, start, (size,) * 3)  # as every reader of a store does
        return time.process_time() - begun

    for count in (0, 1, 5, 20, 80):
        crops = [(start, 96) for start in starts[:count]] or [([0, 0, 0], SIZE)]
        rounds = [(seconds(crops, True), seconds(crops, False)) for _ in range(9)]
        checks, reading = (min(times) for times in zip(*rounds, strict=True))
        what = f"{count} crops of 96³" if count else "the whole scan"
        print(f"checksums over {what}: {checks / reading:.1%} of {1e3 * reading:.0f} ms")


def write_many(folder: Path, count: int) -> Path:
    """A store of many scans that are one; the files of those drawn are there."""
    (scan,) = Store.open(folder / "store")
    many = folder / f"many {count}"
    many.mkdir()
    keys = [f"{number:016x}" for number in range(count)]
    with (many / RECORDS).open("w") as file:
        for key in keys:
            record = Record.model_construct(**{**scan.record.__dict__, "key": key})
            file.write(record.model_dump_json() + "\n")
    (many / REFUSED).touch()
    text = (many / RECORDS).read_bytes()
    rules = Preprocessing(spacing="native", crop=False)
    head = Head(rules=rules, complete=True, scans=count, records_checksum=sha256(text))
    (many / HEAD).write_text(sealed(head))
    source = array_file(scan.store, scan.key)
    for number in drawn(count):
        file = array_file(many, keys[number])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.hardlink_to(source)
        sums_file(file).hardlink_to(sums_file(source))
    return many


def drawn(count: int) -> list[int]:
    return np.random.default_rng(count).choice(count, DRAWN, replace=False).tolist()


def resident() -> float:
    """MiB of this process in memory, that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) / 1024


def look(warm: Path, many: Path) -> tuple[float, float, float, float]:
    """What opening a store of many scans and drawing from it costs a process.

    Milliseconds of the processor for opening, until the first crop, and of each later crop of
    another scan; MiB that the process has grown by then.
    """
    Store.open(warm)[0].read((0, 0, 0), (96, 96, 96))
    before, begun = resident(), time.process_time()
    store = Store.open(many)
    opened = time.process_time() - begun
    times = []
    for number in drawn(len(store)):
        start = time.process_time()
        store[number].read((80, 80, 80), (96, 96, 96))
        times.append(time.process_time() - start)
    first, later = opened + times[0], float(np.median(times[1:]))
    return 1e3 * opened, 1e3 * first, 1e3 * later, resident() - before


def index(folder: Path) -> None:
    """Opening a store of many scans and drawing from it, against one of few: a process each."""
    stores = {count: write_many(folder, count) for count in SCANS}
    for count, many in stores.items():
        begun = time.process_time()
        Store.open(many)
        seconds, size = time.process_time() - begun, (many / RECORDS).stat().st_size / 2**20
        print(f"index of {count} scans, list of {size:.1f} MiB: made in {seconds:.2f} s")
    rounds = []
    for _ in range(7):
        for many in stores.values():
            with get_context("fork").Pool(1) as pool:  # imports are there, nothing is open
                rounds.append(pool.apply(look, (folder / "store", many)))
    print("  scans  opened ms  until a first crop    ratio  a later crop  MiB more")
    found = np.median(np.reshape(rounds, (-1, len(stores), 4)), axis=0)
    for count, (opened, first, later, grown) in zip(stores, found, strict=True):
        print(
            f"{count:7d} {opened:10.2f} {first:19.2f} {first / found[0, 1]:8.2f} {later:13.2f} "
            f"{grown:9.1f}"
        )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        crops(Path(name))
        checksums(Path(name))
        index(Path(name))


if __name__ == "__main__":
    main()
