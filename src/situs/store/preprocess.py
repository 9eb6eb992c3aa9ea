"""Preprocess one scan, and put results back onto its own grid. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from situs.errors import ConfigError, SitusError
from situs.geometry.axes import from_ras, ras_axes, to_ras
from situs.scans.scan import Scan
from situs.store.crop import Background
from situs.store.grid import (
    GridChange,
    resample,
    resample_labels,
    resampled_shape,
)
from situs.store.intensity import Kind, air, foreground_box, intensity_kind, scaling
from situs.store.preprocessing import Preprocessing, Spacing

T = TypeVar("T", bound=np.generic)
LARGEST_VOXELS = 2**31
"""Voxels of the largest prepared scan: beyond this a spacing is a slip of the pen."""


@dataclass(frozen=True)
class Prepared:
    """A scan as a network sees it.

    Attributes:
        array: ``(C, X, Y, Z)`` float32, axes closest to R, A, S.
        affine: ``(4, 4)``, voxel centres to RAS mm.
        label: ``(X, Y, Z)`` int16 on the same grid, or None.
        modality: The scan's.
        intensity: How each channel's values were read: ``"hounsfield"`` or ``"relative"``.
        change: From the scan's own grid to this one; :func:`restore` undoes it.
        background: What lies outside the scan, one normalised value a channel: its own air.
    """

    array: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64]
    label: npt.NDArray[np.int16] | None
    modality: str
    intensity: tuple[Kind, ...]
    change: GridChange
    background: Background

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxel centres along each axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return (x, y, z)


def preprocess(
    scan: Scan,
    preprocessing: Preprocessing,
    label: Scan | None = None,
    spacing_mm: Spacing | None = None,
    kinds: Sequence[Kind | None] = (),
) -> Prepared:
    """Orient, crop to the body, clip and normalise, resample.

    Args:
        scan: Any scan.
        preprocessing: What to do.
        label: Class numbers on the scan's grid.
        spacing_mm: What ``preprocessing.spacing == "median"`` stands for in this collection.
        kinds: How to read each channel's values, where that is settled; None decides by the scan.

    Raises:
        ConfigError: If the spacing is ``"median"`` and ``spacing_mm`` is missing, or the
            spacing asked for would make an absurdly large volume.
        SitusError: If the label has another shape than the scan.
    """
    if label is not None and label.shape != scan.shape:
        raise SitusError(
            f"the label has {label.shape} voxels, its scan {scan.shape}; "
            "resample the label onto the scan's grid first"
        )
    axes, flips = ras_axes(scan.affine)
    turned = to_ras(scan.array, axes, flips)
    spacing = [scan.spacing[a] for a in axes]
    # Each channel by itself: PET beside CT is not in Hounsfield units.
    own = tuple(map(intensity_kind, turned, scan.channel_modalities))
    read = tuple(kind or found for kind, found in zip(kinds or own, own, strict=True))
    start, stop = (0, 0, 0), turned.shape[1:]
    if preprocessing.crop:
        start, stop = foreground_box(turned, spacing, read, preprocessing.margin_mm)
    cropped = turned[(slice(None), *map(slice, start, stop))]
    target = target_spacing(preprocessing, cropped.shape[1:], spacing, spacing_mm)
    shape = resampled_shape(cropped.shape[1:], spacing, target)
    if np.prod(shape, dtype=float) > LARGEST_VOXELS:
        raise ConfigError(f"spacing {target} mm would give {shape} voxels; choose a larger one")
    scale = (target[0] / spacing[0], target[1] / spacing[1], target[2] / spacing[2])
    change = GridChange(scan.shape, axes, flips, start, (stop[0], stop[1], stop[2]), shape, scale)
    values = np.empty(cropped.shape, dtype=np.float32)
    background = []
    for whole, channel, kind, out in zip(turned, cropped, read, values, strict=True):
        how = scaling(channel, spacing, kind, preprocessing)
        how.apply(channel, out)
        # From the whole scan: what was cropped away is what lies beyond the crop.
        background.append(float(how.apply(np.array(air(whole, spacing, kind)))))
    return Prepared(
        array=resample(values, shape, scale, preprocessing.interpolation),
        affine=change.affine(scan.affine),
        label=None if label is None else _prepare_label(label, change),
        modality=scan.modality,
        intensity=read,
        change=change,
        background=tuple(background),
    )


def restore(
    values: npt.NDArray[np.generic], prepared: Prepared | GridChange
) -> npt.NDArray[np.generic]:
    """Put labels or probabilities back onto the scan's own grid.

    Args:
        values: ``(X, Y, Z)`` integer labels, resampled class by class, or ``(K, X, Y, Z)``
            numbers, resampled linearly.
        prepared: What :func:`preprocess` gave, or its ``change``.

    Returns:
        ``(*source)`` int16 or ``(K, *source)`` float32; zero outside the crop.

    Raises:
        SitusError: If ``values`` does not lie on the prepared grid.
    """
    change = _change(values, prepared)
    back = tuple(1.0 / s for s in change.scale)
    if values.ndim == 3:
        whole = np.asarray(values, dtype=np.int64)
        return _uncropped(resample_labels(whole, change.cropped_shape, back), change)
    restored = np.empty((len(values), *change.source_shape), dtype=np.float32)
    for target, channel in zip(restored, values, strict=True):
        target[...] = _uncropped(resample(channel[None], change.cropped_shape, back)[0], change)
    return restored


def restore_largest(
    values: npt.NDArray[np.generic], prepared: Prepared | GridChange
) -> npt.NDArray[np.int16]:
    """The channel with the largest value at each voxel of the scan's own grid.

    The same as ``restore(values, prepared).argmax(0)``, one channel at a time: all classes of a
    large CT on its own grid need not fit the memory.

    Args:
        values: ``(K, X, Y, Z)`` numbers, resampled linearly.
        prepared: As for :func:`restore`.

    Returns:
        ``(*source)``; 0 outside the crop, and on ties the first channel.

    Raises:
        SitusError: If ``values`` does not lie on the prepared grid.
    """
    change = _change(values, prepared)
    back = tuple(1.0 / s for s in change.scale)
    winner = np.zeros(change.cropped_shape, dtype=np.int16)
    largest = resample(values[:1], change.cropped_shape, back)[0]
    for index in range(1, len(values)):
        (candidate,) = resample(values[index : index + 1], change.cropped_shape, back)
        winner[candidate > largest] = index
        np.maximum(largest, candidate, out=largest)
    labels: npt.NDArray[np.int16] = _uncropped(winner, change)
    return labels


def _change(values: npt.NDArray[np.generic], prepared: Prepared | GridChange) -> GridChange:
    change = prepared.change if isinstance(prepared, Prepared) else prepared
    if values.shape[-3:] != change.shape:
        raise SitusError(f"expected values on the grid {change.shape}, got {values.shape}")
    return change


def _uncropped(cropped: npt.NDArray[T], change: GridChange) -> npt.NDArray[T]:
    """``(*cropped)`` in the scan's own axes, zero outside the crop."""
    full = np.zeros(change.oriented_shape, dtype=cropped.dtype)
    full[tuple(map(slice, change.start, change.stop))] = cropped
    (turned,) = from_ras(full[None], change.axes, change.flips)
    return np.ascontiguousarray(turned)


def target_spacing(
    preprocessing: Preprocessing,
    shape: Sequence[int],
    spacing: Sequence[float],
    spacing_mm: Spacing | None,
) -> Spacing:
    """Spacing that a scan gets, along R, A, S.

    Args:
        preprocessing: What to do.
        shape: Voxels along R, A, S. An axis of one voxel keeps its spacing: a single slice
            holds nothing to interpolate.
        spacing: The scan's own.
        spacing_mm: What ``"median"`` stands for.

    Raises:
        ConfigError: If the spacing is ``"median"`` and ``spacing_mm`` is missing.
    """
    if preprocessing.spacing == "native":
        target: Sequence[float] = spacing
    elif preprocessing.spacing != "median":
        target = preprocessing.spacing
    elif spacing_mm is not None:
        target = spacing_mm
    else:
        raise ConfigError(
            "spacing 'median' is that of a collection: pass spacing_mm, or set the preprocessing's "
            "spacing to millimetres or 'native'"
        )
    x, y, z = (s if n == 1 else t for n, s, t in zip(shape, spacing, target, strict=True))
    return (x, y, z)


def _prepare_label(label: Scan, change: GridChange) -> npt.NDArray[np.int16]:
    (turned,) = to_ras(label.array[:1], change.axes, change.flips)
    cropped = turned[tuple(map(slice, change.start, change.stop))]
    return resample_labels(np.asarray(cropped, dtype=np.int64), change.shape, change.scale)
