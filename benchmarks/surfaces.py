"""Distances between surfaces (HD95, surface Dice) against MONAI's, on masks like organs.

``python -m benchmarks.surfaces``. Both are exact; times are of the processor, so that others on
the machine do not count.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from statistics import median

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from situs.evaluation.surfaces import surface_distances

Mask = npt.NDArray[np.bool_]
SPACING = (1.0, 1.5, 0.8)
COMMON = {"include_background": True, "spacing": list(SPACING)}


def organs(size: int, apart: float) -> tuple[Mask, Mask]:
    """Two bumpy balls whose surfaces lie about ``apart`` voxels from each other."""
    rng = np.random.default_rng(size)
    axes = np.meshgrid(*[np.arange(size) - size / 2] * 3, indexing="ij", sparse=True)
    radius = np.sqrt(sum(axis**2 for axis in axes))
    bumps = [ndimage.gaussian_filter(rng.standard_normal((size,) * 3), 4) for _ in range(2)]
    first = radius + 3 * bumps[0] / bumps[0].std()
    return first < size / 3, first + apart * bumps[1] / bumps[1].std() < size / 3


def seconds(run: Callable[[], object]) -> float:
    """Median processor time of three runs."""
    taken = []
    for _ in range(3):
        begin = time.process_time()
        run()
        taken.append(time.process_time() - begin)
    return median(taken)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| size | surface voxels | apart | situs, ms | MONAI, ms | times faster |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for size in (64, 128, 192):
        for apart in (1.0, 5.0):
            pair = organs(size, apart)
            tensors = [torch.from_numpy(mask)[None, None] for mask in pair]

            def own(pair: tuple[Mask, Mask] = pair) -> tuple[float, float]:
                found = surface_distances(*pair, SPACING)
                return found.hausdorff_mm(95), found.within(1.0)

            def theirs(tensors: list[torch.Tensor] = tensors) -> tuple[float, float]:
                far = compute_hausdorff_distance(*tensors, percentile=95, **COMMON)
                near = compute_surface_dice(*tensors, class_thresholds=[1.0], **COMMON)
                return float(far), float(near)

            np.testing.assert_allclose(own(), theirs(), rtol=1e-5)
            ours, monai = seconds(own), seconds(theirs)
            voxels = len(surface_distances(*pair, SPACING).forth)
            print(
                f"| {size}³ | {voxels:,} | {apart:.0f} | {1e3 * ours:.1f} | {1e3 * monai:.1f} | "
                f"{monai / ours:.1f} |"
            )


if __name__ == "__main__":
    main()
