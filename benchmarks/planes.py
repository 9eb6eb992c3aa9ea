"""Labels of the method ``planes``: intersections and heat maps, against slower ways to the same.

Run with one thread: ``OMP_NUM_THREADS=1 python -m benchmarks.planes``. Prints labels a second
and the ratio to situs, for heat maps of 224 × 224 pixels at 1.26 mm.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import sympy
import torch

from situs.geometry import Plane, intersect, line_heatmap

SHAPE, SPACING, SIGMA_MM = (224, 224), (1.26, 1.26), 7.56


def random_planes(n: int, rng: np.random.Generator) -> list[Plane]:
    """Planes of all orientations through the middle of the body."""
    planes = []
    for axes in np.linalg.qr(rng.normal(size=(n, 3, 3)))[0]:
        corner = rng.normal(scale=20, size=3) - (axes[0] + axes[1]) * 1.26 * 111.5
        planes.append(Plane(corner, axes[0], axes[1], SHAPE, SPACING))
    return planes


def situs_labels(sources: list[Plane], targets: list[Plane]) -> np.ndarray:
    lines, _ = intersect(sources, targets)
    return line_heatmap(lines, SHAPE, SPACING, SIGMA_MM)


def one_shot_labels(sources: list[Plane], targets: list[Plane]) -> np.ndarray:
    """The same formula over all maps at once in float64."""
    lines, _ = intersect(sources, targets)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    d = (
        lines[..., 0, None, None] * columns
        + lines[..., 1, None, None] * rows
        + lines[..., 2, None, None]
    ) * SPACING[0]
    return np.exp(-(d**2) / (2 * SIGMA_MM**2))


def symbolic_labels(sources: list[Plane], targets: list[Plane]) -> np.ndarray:
    """One pair after the other, the plane equations solved by a computer algebra system."""
    column, row = sympy.symbols("column row")
    xs, ys = np.meshgrid(np.arange(SHAPE[1]), np.arange(SHAPE[0]))
    maps = np.empty((len(sources), len(targets), *SHAPE))
    for i, source in enumerate(sources):
        for j, target in enumerate(targets):
            point = (
                sympy.Matrix(source.origin_mm)
                + column * SPACING[1] * sympy.Matrix(source.row_mm)
                + row * SPACING[0] * sympy.Matrix(source.column_mm)
            )
            plane = sympy.Plane(tuple(target.origin_mm), tuple(target.normal_mm))
            on_plane = sympy.lambdify(column, sympy.solve(plane.equation(*point), row)[0])
            ends = np.array([[0.0, on_plane(0.0)], [100.0, on_plane(100.0)]])
            direction = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
            d = (xs - ends[0, 0]) * direction[1] - (ys - ends[0, 1]) * direction[0]
            maps[i, j] = np.exp(-((d * SPACING[0]) ** 2) / (2 * SIGMA_MM**2))
    return maps


def rate(
    labels: Callable[[list[Plane], list[Plane]], np.ndarray],
    sources: list[Plane],
    targets: list[Plane],
    repeats: int,
) -> float:
    """Labels a second of processor time, best of ``repeats``."""
    best = np.inf
    for _ in range(repeats):
        start = time.process_time()
        labels(sources, targets)
        best = min(best, time.process_time() - start)
    return len(sources) * len(targets) / best


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    few = random_planes(3, rng), random_planes(3, rng)
    fast, one_shot, slow = (f(*few) for f in (situs_labels, one_shot_labels, symbolic_labels))
    print(f"largest difference of a map: one shot {np.abs(fast - one_shot).max():.1e}, "
          f"symbolic {np.abs(fast - slow).max():.1e}")  # fmt: skip
    planes = random_planes(32, rng), random_planes(32, rng)
    situs = rate(situs_labels, *planes, repeats=7)
    print(f"situs, 32 × 32 pairs      {situs:10.0f} labels/s")
    for name, other in (
        ("one shot, float64", rate(one_shot_labels, *planes, repeats=3)),
        ("symbolic, pair by pair", rate(symbolic_labels, *few, repeats=2)),
    ):
        print(f"{name:25s} {other:10.1f} labels/s   situs is {situs / other:8.1f} times as fast")


if __name__ == "__main__":
    main()
