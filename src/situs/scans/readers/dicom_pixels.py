"""Pixels of DICOM slices: decoding, rescaling, and straightening a tilted stack."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it so
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.pixels.utils import pixel_array
from scipy import ndimage

from situs.files import sha256
from situs.scans.readers.dicom_bits import (
    UntrueBitsError,
    ask_for_all_bits,
    is_compressed,
    stored_values,
)
from situs.scans.readers.dicom_headers import Slice
from situs.scans.readers.dicom_open import (
    FORM_OF_PIXELS,
    PixelsAt,
    fill_missing_attributes,
    is_whole,
    missing_attributes,
    quiet,
    read_pixels,
)
from situs.scans.refusals import refuse

_AIR_HU = -1000
_MULTIFRAME_GREY = "1.2.840.10008.5.1.4.1.1.7.3"  # word-sized multi-frame secondary capture
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


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

    def _which(self, file: Path) -> str:
        return which_file(file, self._files)

    @quiet()
    def _decode(self, file: Path, at: PixelsAt | None) -> npt.NDArray[Any]:
        """All frames of a file, ``(frames, rows, columns)``."""
        dataset = read_pixels(file, at)
        if not any(k in dataset for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            reason = "no-pixels" if is_whole(dataset, file) else "truncated-file"
            raise refuse(reason, self._path, f"{self._which(file)} holds no pixels")
        missing = missing_attributes(dataset)
        signed_unknown = "PixelRepresentation" in missing and "PixelData" in dataset
        if "PixelData" in dataset:
            fill_missing_attributes(dataset, self._path)
            alignment = ask_for_all_bits(dataset)
        try:
            frames = pixel_array(dataset)
        except (NotImplementedError, RuntimeError):
            frames = _decode_with_gdcm(dataset, self._path, self._which(file))
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


def _decode_with_gdcm(dataset: Dataset, path: Path, which: str) -> npt.NDArray[Any]:
    """Decode a compressed image with the GDCM inside SimpleITK.

    It is given a file with the pixels alone: no identifiers, and no rescaling, which situs
    does itself for each slice.
    """
    bare = Dataset()
    for name in (*FORM_OF_PIXELS, "PixelData"):
        if name in dataset:
            bare[name] = dataset[name]
    many = int(dataset.get("NumberOfFrames") or 1)
    if is_compressed(dataset):
        try:
            # GDCM may look for the end of damaged fragments for ever: it gets whole ones.
            fragments = list(generate_fragments(dataset.PixelData))[1:]
        except (ValueError, EOFError):
            detail = f"{which} has damaged pixels"
            raise refuse("truncated-file", path, detail) from None
        if many == 1 or len(fragments) == many:
            bare.PixelData = encapsulate(fragments if many > 1 else [b"".join(fragments)])
            bare["PixelData"].is_undefined_length = True
    # GDCM inverts MONOCHROME1 for some transfer syntaxes and not for others.
    bare.PhotometricInterpretation = "MONOCHROME2"
    bare.SOPClassUID = _MULTIFRAME_GREY if many > 1 else _SECONDARY_CAPTURE
    bare.SOPInstanceUID = pydicom.uid.generate_uid()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    bare.file_meta.MediaStorageSOPClassUID = bare.SOPClassUID
    bare.file_meta.MediaStorageSOPInstanceUID = bare.SOPInstanceUID
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pixels.dcm"
        bare.save_as(file, enforce_file_format=True)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(file))
        try:
            array = sitk.GetArrayFromImage(reader.Execute())
        except RuntimeError:
            # Known syntaxes alone have a name; an unknown one is not repeated.
            syntax = dataset.file_meta.TransferSyntaxUID
            told = f"no decoder at hand for {syntax.name}" if syntax.name != syntax else ""
            raise refuse("unsupported-compression", path, told) from None
    return array.reshape(-1, *array.shape[-2:])
