"""Where a segmentation is wrong, and what Dice an outline that wanders a little has.

    python -m benchmarks.outline LABELS [PREDICTIONS]

LABELS and PREDICTIONS are folders of label maps of the same names; the latter is what a fine-tuning
leaves in `predictions/`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

Labels = npt.NDArray[np.int_]

_SMOOTH_VOX = 3.0  # of the noise along the outline
_WANDER_VOX = (0.25, 0.5, 0.75, 1.0)
_CASES = 60


def read(file: Path) -> Labels:
    """A label map."""
    return np.asarray(nib.load(file).dataobj).astype(int)


def shares(true: Labels, predicted: Labels) -> npt.NDArray[np.int_]:
    """Wrong voxels: all, one class taken for another, others within a voxel of the outline."""
    organ = true > 0
    depth = np.where(organ, ndimage.distance_transform_edt(organ), 0)
    depth = depth + np.where(organ, 0, ndimage.distance_transform_edt(~organ))
    wrong = true != predicted
    mixed = wrong & organ & (predicted > 0)
    return np.array([wrong.sum(), mixed.sum(), (wrong & ~mixed & (depth <= 1)).sum()])


def wandering(true: Labels, rng: np.random.Generator) -> list[list[float]]:
    """Dice of each class with itself after its outline was moved by smooth noise, by its size."""
    rows = []
    for label in np.unique(true[true > 0]):
        organ = true == label
        distance = np.where(
            organ,
            ndimage.distance_transform_edt(organ) - 0.5,
            0.5 - ndimage.distance_transform_edt(~organ),
        )
        noise = ndimage.gaussian_filter(rng.normal(size=true.shape), _SMOOTH_VOX)
        noise /= noise.std()
        moved = [distance + size * noise > 0 for size in _WANDER_VOX]
        rows.append([2 * (m & organ).sum() / (m.sum() + organ.sum()) for m in moved])
    return rows


def main(labels: Path, predictions: Path | None = None) -> None:
    """Print both."""
    rng = np.random.default_rng(0)
    files = sorted(labels.glob("*.nii.gz"))
    dice = np.mean([row for file in files[:_CASES] for row in wandering(read(file), rng)], axis=0)
    for size, value in zip(_WANDER_VOX, dice, strict=True):
        print(f"outline displaced by {size:g} voxels (standard deviation): Dice {value:.3f}")
    if predictions is None:
        return
    found = sorted(predictions.glob("*.nii.gz"))
    wrong, mixed, near = sum(shares(read(labels / f.name), read(f)) for f in found)
    print(f"{wrong} wrong voxels in {len(found)} cases: {100 * mixed / wrong:.1f} % another class,")
    print(f"{100 * near / wrong:.1f} % other ones within one voxel of the true outline")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
