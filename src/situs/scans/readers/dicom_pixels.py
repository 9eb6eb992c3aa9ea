"""Pixels of DICOM slices: decoding, rescaling, and straightening a tilted stack."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array
from scipy import ndimage

from situs.files import sha256
from situs.scans.readers.dicom_bits import (
    UntrueBitsError,
    ask_for_all_bits,
    holds_more,
    stored_values,
)
from situs.scans.readers.dicom_gdcm import decode_with_gdcm, is_jpeg
from situs.scans.readers.dicom_headers import Slice
from situs.scans.readers.dicom_open import (
    PixelsAt,
    fill_missing_attributes,
    is_packed_unsaid,
    is_whole,
    missing_attributes,
    quiet,
    read_pixels,
    runs_past_end,
)
from situs.scans.refusals import refuse

_AIR_HU = -1000


class Pixels:
    """Frames of one series; decodes a file once for all frames asked in a row."""

    def __init__(self, path: Path, files: Sequence[Path] = ()) -> None:
        self._path, self._files = path, files
        self._decoded = lru_cache(maxsize=1)(self._decode)

    def fingerprint(self, slice_: Slice) -> str:
        """Hash of a slice's stored values."""
        return sha256(self.stored(slice_).tobytes())

    def stored(self, slice_: Slice) -> npt.NDArray[Any]:
        """Stored values ``(rows, columns)`` before rescaling.

        Raises:
            ScanRefused: If the file has no such frame, or none that can be decoded.
        """
        frames = self._decoded(slice_.file, slice_.pixels)
        if slice_.frame >= len(frames):
            detail = f"{self._which(slice_.file)} holds fewer frames than it says"
            raise refuse("truncated-file", self._path, detail)
        frame: npt.NDArray[Any] = frames[slice_.frame]
        if slice_.tile is not None:
            row, column, (rows, columns) = slice_.tile
            frame = frame[row : row + rows, column : column + columns]
        if frame.shape != slice_.shape:
            detail = f"{self._which(slice_.file)} holds fewer pixels than it says"
            raise refuse("truncated-file", self._path, detail)
        return frame

    def volume(self, slices: Sequence[Slice], modality: str = "") -> npt.NDArray[Any]:
        """Rescaled values ``(columns, rows, slices)``, each slice by its own slope.

        Pixels that stand for no measurement (PixelPaddingValue) become air or background: they
        get the lowest value that was measured, in CT at most that of air.

        Raises:
            ScanRefused: ``mixed-rescale`` where some slices lack a rescale that others have.
        """
        self._check_rescale(slices)
        whole = all(s.slope == 1 and float(s.intercept).is_integer() for s in slices)
        whole = whole and self.stored(slices[0]).dtype.kind in "iu"
        out = np.empty((len(slices), *slices[0].shape), np.int16 if whole else np.float32)
        padded: list[tuple[int, npt.NDArray[np.bool_]]] = []
        for k, slice_ in enumerate(slices):
            values = self.stored(slice_)
            if whole:
                intercept = int(slice_.intercept)
                narrow = values.dtype.itemsize <= 2 and abs(intercept) < 2**30
                wide = np.int32 if narrow else np.int64
                out = _widened(out, int(values.min()) + intercept, int(values.max()) + intercept)
                np.add(values, intercept, out=out[k], dtype=wide, casting="unsafe")
            else:
                out[k] = values * np.float64(slice_.slope) + slice_.intercept
            if slice_.padding is not None:
                low, high = slice_.padding
                outside = (values >= low) & (values <= high)
                if outside.any():
                    padded.append((k, outside))
        if padded:
            _fill_padding(out, padded, modality)
        return out.T

    def _check_rescale(self, slices: Sequence[Slice]) -> None:
        bare = sum(not s.rescaled for s in slices)
        if 0 < bare < len(slices) and any(s.slope != 1 or s.intercept != 0 for s in slices):
            detail = f"{bare} of {len(slices)} slices have no RescaleSlope and RescaleIntercept"
            raise refuse("mixed-rescale", self._path, detail)

    def _by_gdcm(self, dataset: Dataset, file: Path) -> npt.NDArray[Any]:
        return decode_with_gdcm(dataset, self._path, self._which(file))

    def _which(self, file: Path) -> str:
        return which_file(file, self._files)

    @quiet()
    def _decode(self, file: Path, at: PixelsAt | None) -> npt.NDArray[Any]:
        """All frames of a file, ``(frames, rows, columns)``."""
        dataset = read_pixels(file, at)
        if not any(k in dataset for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            reason = "no-pixels" if is_whole(dataset, file) else "truncated-file"
            raise refuse(reason, self._path, f"{self._which(file)} holds no pixels")
        if runs_past_end([dataset.get_item(tag) for tag in list(dataset.keys())]):
            detail = f"{self._which(file)} has damaged pixels, or bytes behind them"
            raise refuse("truncated-file", self._path, detail)
        if is_packed_unsaid(dataset):
            detail = f"{self._which(file)} is compressed, and its transfer syntax does not say how"
            raise refuse("unreadable-file", self._path, detail)
        missing = missing_attributes(dataset)
        signed_unknown = "PixelRepresentation" in missing and "PixelData" in dataset
        if "PixelData" in dataset:
            fill_missing_attributes(dataset, self._path)
            if holds_more(dataset):
                detail = f"{self._which(file)} holds more pixels than its rows, columns and frames"
                raise refuse("unreadable-file", self._path, detail)
            alignment = ask_for_all_bits(dataset)
        try:
            # Of a damaged JPEG stream Pillow says nothing.
            by_gdcm = is_jpeg(dataset)
            frames = self._by_gdcm(dataset, file) if by_gdcm else pixel_array(dataset)
        except (NotImplementedError, RuntimeError):
            frames = self._by_gdcm(dataset, file)
        except (AttributeError, ValueError, KeyError, EOFError):
            detail = f"{self._which(file)} has damaged or too few pixels"
            raise refuse("truncated-file", self._path, detail) from None
        if "PixelData" in dataset:
            try:
                frames = stored_values(frames, dataset, alignment)
            except UntrueBitsError as error:
                detail = f"{self._which(file)} {error}"
                raise refuse("unreadable-file", self._path, detail) from None
        if signed_unknown and frames.max() >= 2 ** (int(dataset.BitsStored) - 1):
            detail = "PixelRepresentation is missing, and the values could be negative numbers"
            raise refuse("missing-attribute", self._path, detail)
        return frames[None] if frames.ndim == 2 else frames


def which_file(file: Path, files: Sequence[Path]) -> str:
    """A file of a series by its number, so that it is found and its name is not told.

    Args:
        file: One of ``files``.
        files: All of them, in the order of their names.
    """
    number = next((n for n, other in enumerate(files, 1) if other == file), 0)
    return f"file {number} of {len(files)} by name" if number and len(files) > 1 else "the file"


def straighten(
    volume: npt.NDArray[Any], tilt: tuple[float, float]
) -> tuple[npt.NDArray[np.float32], tuple[int, int]]:
    """Move the slices of a tilted stack in their planes until they lie above each other.

    Args:
        volume: ``(columns, rows, slices)``.
        tilt: In-plane shift a slice, in pixels.

    Returns:
        The volume on a larger canvas, linear in the plane and never mixing slices, with the
        lowest value where nothing was scanned; and the pixels added before the first.
    """
    last = volume.shape[2] - 1
    reach = [t * last for t in tilt]
    pad = (int(np.ceil(max(0.0, -reach[0]))), int(np.ceil(max(0.0, -reach[1]))))
    canvas = [n + int(np.ceil(abs(r))) for n, r in zip(volume.shape[:2], reach, strict=True)]
    # Output voxel (i, j, k) shows input voxel (i − pad − k·tilt, …, k).
    matrix = np.array([[1.0, 0, -tilt[0]], [0, 1.0, -tilt[1]], [0, 0, 1.0]])
    moved = ndimage.affine_transform(
        volume.astype(np.float32),
        matrix,
        offset=(-pad[0], -pad[1], 0),
        output_shape=(*canvas, volume.shape[2]),
        order=1,
        mode="constant",
        cval=float(volume.min()),
    )
    return moved, pad


def _widened(out: npt.NDArray[Any], low: int, high: int) -> npt.NDArray[Any]:
    """``out`` in the smallest type of integers from its own on that holds ``low`` to ``high``."""
    for dtype in (np.int16, np.int32):
        info = np.iinfo(dtype)
        if out.dtype.itemsize <= info.bits // 8 and info.min <= low and high <= info.max:
            return out.astype(dtype, copy=False)
    return out.astype(np.int64, copy=False)


def _fill_padding(
    out: npt.NDArray[Any], padded: Sequence[tuple[int, npt.NDArray[np.bool_]]], modality: str
) -> None:
    """Give padded pixels of ``out (slices, rows, columns)`` the value of background."""
    measured = np.ones(out.shape, dtype=bool)
    for k, outside in padded:
        measured[k] = ~outside
    values = out[measured]
    if values.size == 0:
        return
    background = values.min()
    if modality == "CT":
        background = min(background, _AIR_HU)
    for k, outside in padded:
        # What lies below everything measured is background already; in CT it is a number
        # outside the scale.
        higher = outside if modality == "CT" else outside & (out[k] > background)
        out[k][higher] = background
