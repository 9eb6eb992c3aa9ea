"""Finding near-duplicates, beside comparing every pair in full.

``python -m benchmarks.near_duplicates [SCANS …]`` makes pictures of one anatomy that differ between
patients about as hippocampus crops do, with copies among them, and prints the time of
``pairs_alike``; for up to 4,000 scans also that of the likeness of every pair.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from scipy import ndimage
from scipy.stats import rankdata

from situs.catalog.near_duplicates import ALIKE, Thumbnail, likeness, pairs_alike

SCANS = (2000, 20_000)
BASIS = 300


def pictures(count: int) -> list[Thumbnail]:
    """Ranks of smooth fields: what all share, and what is a patient's own."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(BASIS + 1, 16, 16, 16))
    fields = ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 1.5)).reshape(BASIS + 1, -1)
    fields /= fields.std(1, keepdims=True)
    made: list[Thumbnail] = []
    for i in range(count):
        own = rng.normal(size=BASIS) @ fields[1:] / np.sqrt(BASIS)
        values = 1.6 * fields[0] + own
        if i % 100 == 99:  # a copy with a twentieth of noise
            values = made[-1].astype(np.float64)
            values = values + rng.normal(0, values.std() / 20, values.shape)
        made.append(np.asarray(rankdata(values) / values.size, np.float16))
    return made


def every_pair(made: list[Thumbnail]) -> set[tuple[int, int]]:
    """What comparing all with all finds."""
    found = set()
    for low in range(0, len(made), 500):
        for high in range(low, len(made), 500):
            alike = likeness(np.stack(made[low : low + 500]), np.stack(made[high : high + 500]))
            rows, columns = np.nonzero(alike >= ALIKE)
            found |= {
                (low + i, high + j)
                for i, j in zip(rows.tolist(), columns.tolist(), strict=True)
                if low + i < high + j
            }
    return found


def main() -> None:
    for count in [int(text) for text in sys.argv[1:]] or SCANS:
        made = pictures(count)
        begin = time.perf_counter()
        found = pairs_alike(made)
        seconds = time.perf_counter() - begin
        said = f"{count:,} scans: {len(found)} pairs in {seconds:.2f} s"
        if count <= 4000:
            begin = time.perf_counter()
            same = every_pair(made) == {(i, j) for i, j, _ in found}
            all_s = time.perf_counter() - begin
            said += f"; every pair in full {all_s:.1f} s, {all_s / seconds:.0f}×"
            said += ", the same pairs" if same else ", OTHER pairs"
        print(said, flush=True)


if __name__ == "__main__":
    main()
