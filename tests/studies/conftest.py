"""A small labelled data set that every test of the study can use."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage


def write_case(root: Path, name: str, rng: np.random.Generator, size: float = 3.0) -> None:
    shape = (12, 14, 10)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), 1.0)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    centre = rng.uniform(4, 7, 3)[:, None, None, None]
    label = (np.linalg.norm(grid - centre, axis=0) < size).astype(np.uint8)
    image = 100 + 40 * noise + 60 * label
    for folder, array in (("images", image.astype(np.float32)), ("labels", label)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4)), root / folder / f"{name}.nii.gz")


@pytest.fixture(scope="session")
def organs(tmp_path_factory) -> Path:
    """Thirty scans of fifteen patients, ``p07_a`` and ``p07_b``, with one organ."""
    root = tmp_path_factory.mktemp("organs")
    rng = np.random.default_rng(0)
    for patient in range(15):
        for visit in "ab":
            write_case(root, f"p{patient:02d}_{visit}", rng, size=2.0 + patient / 8)
    return root
