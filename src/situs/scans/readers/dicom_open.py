"""Open DICOM files: without a word of what their headers say, and without inflating bombs."""

from __future__ import annotations

import gzip
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from situs.scans.formats import PREAMBLE_BYTES, format_by_name, is_gzip
from situs.scans.quality import MAX_BYTES
from situs.scans.refusals import refuse

_DEFLATED = "1.2.840.10008.1.2.1.99"
# zlib expands by up to 1032:1, and pydicom inflates a deflated file as a whole.
_MAX_DEFLATED_BYTES = 4 * 2**20
_MAX_HEADER_BYTES = 64 * 2**20
_UNDEFINED_LENGTH = 0xFFFFFFFF

# What the standard demands of every image and some writers leave out, with what other readers
# take then. BitsAllocated follows from the length of the pixels.
_DEFAULTS: dict[str, int | str] = {
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "PixelRepresentation": 0,
}
_STORED = ("BitsAllocated", "BitsStored", "HighBit")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom's warnings and log: they quote header values, which may name a patient.

    Values are converted when they are first looked at, so this encloses all use of a dataset.
    """
    logger = pydicom.config.logger
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_disabled


def read_dataset(file: Path, *, pixels: bool) -> Dataset:
    """The dataset of one file, gzipped or not; to be used inside :func:`quiet`.

    Raises:
        ScanRefused: ``empty-file``, ``truncated-file``, ``no-pixels``, ``not-an-image`` or
            ``too-large``.
    """
    size = file.stat().st_size
    if size == 0:
        raise refuse("empty-file", file)
    try:
        if is_gzip(file):
            with gzip.open(file) as packed:
                stream = _Bounded(packed, MAX_BYTES if pixels else _MAX_HEADER_BYTES)
                dataset = pydicom.dcmread(stream, force=True, stop_before_pixels=not pixels)
        else:
            if size > _MAX_DEFLATED_BYTES and _is_deflated(file):
                raise refuse("too-large", file, "a deflated file of this size is not opened")
            dataset = pydicom.dcmread(file, force=True, stop_before_pixels=not pixels)
    except _BeyondBound:
        raise refuse("too-large", file, "the file unpacks to more than a scan may take") from None
    except (EOFError, OSError, BytesLengthException):
        raise refuse("truncated-file", file, "the header ends too early") from None
    meta = dataset.file_meta
    if meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        raise refuse("not-an-image", file, "this DICOM object holds no image")
    if "Rows" not in dataset:
        _refuse_without_image(dataset, file)
    if "TransferSyntaxUID" not in meta:
        meta.TransferSyntaxUID = _syntax(dataset)
    return dataset


def _refuse_without_image(dataset: Dataset, file: Path) -> None:
    """Say why an object has no rows of pixels: it is no image, was cut off, or was emptied.

    Raises:
        ScanRefused: ``truncated-file``, ``no-pixels`` or ``not-an-image``.
    """
    whole = is_whole(dataset, file)  # before elements are looked at and lose their place
    if "SOPClassUID" not in dataset and not getattr(dataset, "preamble", None):
        if format_by_name(file) == "dicom" and file.stat().st_size <= PREAMBLE_BYTES:
            raise refuse("truncated-file", file, "the file ends before its header")
        if format_by_name(file) == "dicom":
            # Not passed over: it may be the last slice of a stack, damaged.
            raise refuse("unreadable-file", file, "this is no DICOM object, though named as one")
        raise refuse("not-an-image", file, "this is no DICOM object")
    known = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
    if not whole:
        raise refuse("truncated-file", file, "the header ends too early")
    if known is None:
        raise refuse("unreadable-file", file, "the header does not say what the object is")
    # Not passed over: the slice of a stack may have lost its pixels.
    if str(UID(known).name).endswith("Image Storage"):
        raise refuse("no-pixels", file)
    raise refuse("not-an-image", file, "this DICOM object holds no image")


def is_whole(dataset: Dataset, file: Path) -> bool:
    """Whether the last element of an object without pixels ends where its file does."""
    if is_gzip(file):
        return True  # its checksum was compared when it was read to its end
    if not len(dataset):
        return False
    last: RawDataElement | DataElement = dataset.get_item(max(dataset.keys()))
    if isinstance(last, DataElement):
        # A sequence was read to its delimiter; of others that were converted the place is lost.
        return last.VR == "SQ" or last.is_empty
    if last.length == _UNDEFINED_LENGTH:
        return True
    return last.value_tell + last.length == file.stat().st_size


def missing_attributes(dataset: Dataset) -> tuple[str, ...]:
    """Names of attributes of the pixels that an image must have and this one has not."""
    return tuple(name for name in (*_DEFAULTS, *_STORED) if name not in dataset)


def fill_missing_attributes(dataset: Dataset, file: Path) -> None:
    """Give an image the attributes of its pixels that it lacks, where they follow from others.

    Raises:
        ScanRefused: ``missing-attribute`` where they do not.
    """
    missing = missing_attributes(dataset)
    for name in missing:
        if name in _DEFAULTS:
            setattr(dataset, name, _DEFAULTS[name])
    if "BitsAllocated" in missing:
        frames = int(dataset.get("NumberOfFrames") or 1)
        values = int(dataset.Rows) * int(dataset.Columns) * frames * int(dataset.SamplesPerPixel)
        held = len(dataset.get("PixelData") or b"")
        bytes_each = held // values if values else 0
        compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
        if compressed or bytes_each not in (1, 2, 4) or held - values * bytes_each > 1:
            raise refuse("missing-attribute", file, "BitsAllocated is missing")
        dataset.BitsAllocated = 8 * bytes_each
    if "BitsStored" in missing:
        dataset.BitsStored = dataset.BitsAllocated
    if "HighBit" in missing:
        dataset.HighBit = int(dataset.BitsStored) - 1


def _syntax(dataset: Dataset) -> UID:
    """How a file without file meta information is written, as pydicom found it."""
    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _is_deflated(file: Path) -> bool:
    try:
        meta = pydicom.filereader.read_file_meta_info(file)
    except pydicom.errors.InvalidDicomError:
        return False
    return str(meta.get("TransferSyntaxUID", "")) == _DEFLATED


class _BeyondBound(Exception):
    pass


class _Bounded(io.BufferedIOBase):
    """A stream that unpacks no further than to a number of bytes."""

    def __init__(self, stream: gzip.GzipFile, bound: int) -> None:
        self._stream, self._bound = stream, bound

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as much, or everything up to the bound."""
        left = self._bound - self._stream.tell()
        data = self._stream.read(left + 1 if size is None or size < 0 else min(size, left + 1))
        if len(data) > left:
            raise _BeyondBound
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move; an absolute place beyond the bound is refused."""
        if whence == io.SEEK_SET and offset > self._bound:
            raise _BeyondBound
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Where the stream is."""
        return self._stream.tell()

    def seekable(self) -> bool:
        """Yes."""
        return True

    def readable(self) -> bool:
        """Yes."""
        return True
