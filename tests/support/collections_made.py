"""A small labelled collection: two bright bodies in noisy, oblique, anisotropic scans."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.spatial.transform import Rotation

SHAPE = (26, 22, 14)


def affine_of(rng: np.random.Generator) -> np.ndarray:
    """Axes near L, A, I: every one must be permuted or flipped, none is aligned."""
    rotation = Rotation.from_euler("xyz", rng.uniform(-8, 8, 3), degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-1.0, 1.2, -2.0])
    affine[:3, 3] = rng.uniform(-30, 30, 3)
    return affine


def bodies(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels ``(X, Y, Z)``: a bright ball (1) and a dark one (2)."""
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    label = np.zeros(SHAPE, np.uint8)
    for value, centre in ((1, (8, 8, 6)), (2, (18, 14, 8))):
        offset = (grid - centre - rng.uniform(-1, 1, 3)) * [1, 1.2, 2]
        label[(offset**2).sum(-1) < 5.0**2] = value
    image = rng.normal(0, 0.3, SHAPE) + np.array([0.0, 3.0, -3.0])[label]
    return (100 * image + 500).astype(np.float32), label


def write_collection(folder: Path, cases: int = 6, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for i in range(cases):
        image, label = bodies(rng)
        affine = affine_of(rng)
        nib.save(nib.Nifti1Image(image, affine), folder / "images" / f"case-{i}.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), folder / "labels" / f"case-{i}.nii.gz")
    return folder
