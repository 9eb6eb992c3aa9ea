"""The checks that every scan passes, whatever its format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from situs.scans.refusals import refuse

MAX_BYTES = 4 * 2**30
"""Default limit for the voxels of one scan in memory."""

# A cosine of 0.0017 is 0.1°: half a millimetre across a large field of view. Headers written
# with four digits stay below it, a tilted gantry or an affine registration does not.
_MAX_COSINE = 1.75e-3

# Two kilometres: no origin of a scanner's frame is that far away, damaged ones are.
_FARTHEST_MM = 2e6
# From a microscope's micro-CT to a slice gap that nobody would measure in.
_SMALLEST_MM, _LARGEST_MM = 1e-5, 1e3

# Deflate cannot compress by more than about 1032:1, so a header that promises more is false.
_MAX_COMPRESSION = 1100

# More than the regions of whole-brain or whole-body segmentations.
_MAX_CLASSES = 256
_FLAT_VALUES = 2  # background, and saturation


def check_affine(affine: npt.NDArray[np.float64], path: Path) -> None:
    """Refuse an affine that does not describe a grid with right angles.

    Args:
        affine: ``(4, 4)``, voxels to mm.
        path: For the error.

    Raises:
        ScanRefused: ``singular-affine``, ``bad-spacing`` or ``sheared-affine``.
    """
    if not np.isfinite(affine).all():
        raise refuse("singular-affine", path, "the affine holds NaN or infinity")
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.isfinite(lengths).all() and lengths.all()):
        raise refuse("singular-affine", path, "an axis of the affine has no length, or no end")
    if np.abs(affine[:3, 3]).max() > _FARTHEST_MM:
        raise refuse("singular-affine", path, "the affine puts voxels kilometres away")
    if lengths.max() > _FARTHEST_MM:
        raise refuse("bad-spacing", path, "a voxel is kilometres long")
    axes = affine[:3, :3] / lengths
    if abs(np.linalg.det(axes)) < 1e-3:
        raise refuse("singular-affine", path, "two axes of the affine point the same way")
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if cosine > _MAX_COSINE:
        degrees = np.degrees(np.arcsin(min(1.0, cosine)))
        raise refuse("sheared-affine", path, f"axes are {degrees:.2f}° off a right angle")


def check_spacing(spacing: list[float], path: Path) -> None:
    """Refuse a voxel size that is no number above zero, or that no scanner has.

    Raises:
        ScanRefused: ``bad-spacing``.
    """
    if not all(np.isfinite(s) and s > 0 for s in spacing):
        shown = ", ".join(f"{s:g}" for s in spacing)
        raise refuse("bad-spacing", path, f"spacing is ({shown}) mm; must be above zero")
    if not all(_SMALLEST_MM <= s <= _LARGEST_MM for s in spacing):
        shown = ", ".join(f"{s:g}" for s in spacing)
        bounds = f"{_SMALLEST_MM:g} to {_LARGEST_MM:g} mm"
        raise refuse("bad-spacing", path, f"spacing is ({shown}) mm; scanners have {bounds}")


def check_shape(shape: tuple[int, ...], path: Path, *, planes: bool = False) -> None:
    """Refuse a volume that is one voxel thick.

    Args:
        shape: Voxels along the three axes.
        path: For the error.
        planes: Whether one axis may have a single voxel.

    Raises:
        ScanRefused: ``one-voxel-thick``.
    """
    thin = sum(n <= 1 for n in shape)
    if min(shape) < 1 or thin > int(planes):
        raise refuse("one-voxel-thick", path, f"shape is {_times(shape)}")


def check_size(
    voxels: int, bytes_each: int, held: int | None, path: Path, max_bytes: int | None
) -> None:
    """Refuse, before anything is allocated, what cannot be there or would not fit.

    Args:
        voxels: Number that the header promises.
        bytes_each: Bytes a voxel takes in the file.
        held: Bytes of the compressed file that hold them, None where they are not compressed
            (their length is then checked by the reader).
        path: For the error.
        max_bytes: Limit for the voxels in memory, None for no limit.

    Raises:
        ScanRefused: ``absurd-header`` or ``too-large``.
    """
    needed = voxels * bytes_each
    if voxels < 1 or (held is not None and needed > _MAX_COMPRESSION * held):
        raise refuse("absurd-header", path, f"{voxels} voxels cannot be in this file")
    if max_bytes is not None and needed > max_bytes:
        raise refuse(
            "too-large",
            path,
            f"{needed / 2**30:.1f} GiB of voxels, limit {max_bytes / 2**30:g} GiB",
        )


def check_intensities(array: npt.NDArray[np.generic], path: Path) -> None:
    """Refuse voxels that are not finite, or all equal.

    Raises:
        ScanRefused: ``non-finite`` or ``constant-image``.
    """
    # Minimum and maximum carry NaN and infinity with them and need no second array.
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        count = int(array.size - np.count_nonzero(np.isfinite(array)))
        raise refuse("non-finite", path, f"{count} of {array.size} voxels are NaN or infinite")
    if low == high:
        raise refuse("constant-image", path, f"all voxels are {low:g}")


def check_prepared(array: npt.NDArray[np.generic], path: str | Path) -> None:
    """Refuse what clipping and resampling have made equal in every channel: nothing is left.

    Values near the largest of their type overflow when they are scaled.

    Raises:
        ScanRefused: ``constant-image`` or ``non-finite``.
    """
    if not np.isfinite(array).all():
        raise refuse("non-finite", path, "values are so large that scaling them gives no number")
    if all(channel.min() == channel.max() for channel in array):
        detail = f"all voxels are {float(array.min()):g} once prepared; mind the intensity window"
        raise refuse("constant-image", path, detail)


def looks_like_hounsfield(array: npt.NDArray[Any]) -> bool:
    """Whether intensities can only be Hounsfield units: much air, much soft tissue, no more.

    Deliberately hard to satisfy: a CT cropped to the body, or stored in another unit, stays
    "unknown" rather than that an MR is clipped to a CT window.
    """
    low, high = float(array.min()), float(array.max())
    if not (-3100 <= low <= -900 and 200 <= high <= 32767):
        return False
    step = max(1, array.size // 200_000)
    sample = array.reshape(-1)[::step]
    air = np.mean((sample >= -1100) & (sample <= -900))
    tissue = np.mean((sample >= -200) & (sample <= 200))
    return bool(air > 0.03 and tissue > 0.03)


def looks_like_labels(array: npt.NDArray[Any]) -> bool:
    """Whether an image is a label map: few whole numbers, and neighbours inside are equal.

    A scan in 8 bits or less has few values as well, but noise keeps its neighbours apart.
    """
    low, high = float(array.min()), float(array.max())
    step = max(1, array.size // 200_000)
    sample = array.reshape(-1)[::step]
    if low < 0 or high > 65535 or (sample != np.rint(sample)).any():
        return False
    # A scan, too, may hold flat areas: its background, at whatever value, and what is saturated.
    # So the two commonest values do not count, unless there are no others.
    found, counts = np.unique(sample, return_counts=True)
    if len(found) > _MAX_CLASSES:
        return False
    if len(found) <= _FLAT_VALUES:
        return True
    flat = found[np.argsort(counts)[-_FLAT_VALUES:]]
    one, next_ = array[:, :-1], array[:, 1:]
    inside = np.ones(one.shape, dtype=bool)
    for value in flat:
        inside &= (one != value) & (next_ != value)
    pairs = int(np.count_nonzero(inside))
    return pairs == 0 or int(np.count_nonzero(inside & (one == next_))) > 0.8 * pairs


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
