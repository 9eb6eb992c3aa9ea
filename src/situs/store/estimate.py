"""How large a store is going to be, from a catalog alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from situs.catalog.measure import Entry
from situs.geometry.axes import ras_axes
from situs.store.grid import median_spacing_of, resampled_shape
from situs.store.preprocess import target_spacing
from situs.store.preprocessing import Preprocessing, Spacing


def median_spacing(entries: Sequence[Entry]) -> Spacing:
    """Median spacing along R, A, S of scans that may be stored in any orientation."""
    return median_spacing_of((np.reshape(e.affine, (4, 4)), e.spacing) for e in entries)


def prepared_shape(
    entry: Entry, preprocessing: Preprocessing, spacing_mm: Spacing | None = None
) -> tuple[int, int, int]:
    """Voxels along R, A, S that a scan gets where nothing is cropped."""
    axes, _ = ras_axes(np.reshape(entry.affine, (4, 4)))
    spacing = [entry.spacing[a] for a in axes]
    size = [entry.shape[a] for a in axes]
    return resampled_shape(size, spacing, target_spacing(preprocessing, size, spacing, spacing_mm))


def estimate_bytes(
    entries: Iterable[Entry], preprocessing: Preprocessing, spacing_mm: Spacing | None = None
) -> int:
    """Upper bound of the voxels' size on disk: nothing cropped, nothing compressed."""
    total = 0
    for entry in entries:
        total += entry.channels * math.prod(prepared_shape(entry, preprocessing, spacing_mm))
    return total * np.dtype(preprocessing.dtype).itemsize
