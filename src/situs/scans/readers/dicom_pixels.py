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
from scipy import ndimage

from situs.files import sha256
from situs.scans.readers.dicom_headers import Slice
from situs.scans.readers.dicom_open import quiet, read_dataset
from situs.scans.refusals import refuse

# What a decoder needs to know of an image, and nothing of the patient.
_PIXEL_MODULE = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
)
_MULTIFRAME_GREY = "1.2.840.10008.5.1.4.1.1.7.3"  # word-sized multi-frame secondary capture
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


class Pixels:
    """Frames of one series; decodes a file once for all frames asked in a row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decoded = lru_cache(maxsize=1)(self._decode)

    def fingerprint(self, slice_: Slice) -> str:
        """Hash of a slice's stored values."""
        return sha256(self.stored(slice_).tobytes())

    def stored(self, slice_: Slice) -> npt.NDArray[Any]:
        """Stored values ``(rows, columns)`` before rescaling."""
        frames = self._decoded(slice_.file)
        if slice_.frame >= len(frames) or frames.shape[1:] != slice_.shape:
            raise refuse("truncated-file", self._path, "a file holds fewer frames than it says")
        frame: npt.NDArray[Any] = frames[slice_.frame]
        return frame

    def volume(self, slices: Sequence[Slice]) -> npt.NDArray[Any]:
        """Rescaled values ``(columns, rows, slices)``, each slice by its own slope."""
        whole = all(s.slope == 1 and float(s.intercept).is_integer() for s in slices)
        whole = whole and self.stored(slices[0]).dtype.kind in "iu"
        out = np.empty((len(slices), *slices[0].shape), np.int16 if whole else np.float32)
        for k, slice_ in enumerate(slices):
            values = self.stored(slice_)
            if whole:
                rescaled = values.astype(np.int32) + int(slice_.intercept)
                if out.dtype == np.int16 and not _fits_int16(rescaled):
                    out = out.astype(np.int32)
                out[k] = rescaled
            else:
                out[k] = values * np.float64(slice_.slope) + slice_.intercept
        return out.T

    @quiet()
    def _decode(self, file: Path) -> npt.NDArray[Any]:
        """All frames of a file, ``(frames, rows, columns)``."""
        dataset = read_dataset(file, pixels=True)
        if not any(k in dataset for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise refuse("truncated-file", self._path, "a file of the series holds no pixels")
        try:
            frames = dataset.pixel_array
        except (NotImplementedError, RuntimeError):
            frames = _decode_with_gdcm(dataset, self._path)
        except (AttributeError, ValueError, KeyError, EOFError):
            detail = "a file of the series has damaged or too few pixels"
            raise refuse("truncated-file", self._path, detail) from None
        return frames[None] if frames.ndim == 2 else frames


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


def _fits_int16(values: npt.NDArray[np.int32]) -> bool:
    info = np.iinfo(np.int16)
    return bool(info.min <= values.min() and values.max() <= info.max)


def _decode_with_gdcm(dataset: Dataset, path: Path) -> npt.NDArray[Any]:
    """Decode a compressed image with the GDCM inside SimpleITK.

    It is given a file with the pixels alone: no identifiers, and no rescaling, which situs
    does itself for each slice.
    """
    bare = Dataset()
    for name in _PIXEL_MODULE:
        if name in dataset:
            bare[name] = dataset[name]
    many = int(dataset.get("NumberOfFrames") or 1) > 1
    bare.SOPClassUID = _MULTIFRAME_GREY if many else _SECONDARY_CAPTURE
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
            raise refuse("unsupported-compression", path) from None
    return array.reshape(-1, *array.shape[-2:])
