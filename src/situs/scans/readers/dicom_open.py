"""Open DICOM files: without a word of what their headers say, and without inflating bombs."""

from __future__ import annotations

import gzip
import io
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.filereader import data_element_generator
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from situs.errors import ScanRefused
from situs.scans.formats import GZIP_START, PREAMBLE_BYTES, format_by_name, is_gzip
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
FORM_OF_PIXELS = (*_DEFAULTS, "NumberOfFrames", "Rows", "Columns", *_STORED)
"""What a decoder needs to know of an image, and nothing of the patient."""
OVERLAY_BIT_POSITIONS = tuple(range(0x60000102, 0x60200102, 0x20000))
"""Where headers say in which bits of the pixels overlays stand (retired), one a group."""
_FORM_TAGS = (
    *(
        cast(int, tag_for_keyword(name))
        for name in (*FORM_OF_PIXELS, "ExtendedOffsetTable", "ExtendedOffsetTableLengths")
    ),
    *OVERLAY_BIT_POSITIONS,
)
_PIXEL_DATA = 0x7FE00010
_OTHER_PIXELS = (0x7FE00008, 0x7FE00009)  # floats, doubles


@dataclass(frozen=True, eq=False)
class PixelsAt:
    """Where the pixels begin in a file whose header was read: it need not be parsed again.

    Attributes:
        offset: Of the element that holds them, in bytes.
        implicit: Whether elements there are written without their VR.
        little: Whether they are written in little endian.
        form: :data:`FORM_OF_PIXELS`, tables of offsets and :data:`OVERLAY_BIT_POSITIONS` as the
            header has them, with the file meta information.
    """

    offset: int
    implicit: bool
    little: bool
    form: Dataset


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
    return _parsed(file, pixels=pixels)[0]


def read_head(file: Path) -> tuple[Dataset, PixelsAt | None]:
    """What stands before the pixels of a file, and where they are, inside :func:`quiet`.

    Returns:
        The dataset, and what :func:`read_pixels` needs; None where the whole file must be read
        again, because it is packed.

    Raises:
        ScanRefused: As :func:`read_dataset`.
    """
    dataset, end = _parsed(file, pixels=False)
    rows = cast(object, dataset.get_item("Rows"))  # raw, which pydicom's types do not say
    if end is None or not isinstance(rows, RawDataElement):
        return dataset, None
    kept: Any = {tag: dataset.get_item(tag) for tag in _FORM_TAGS if tag in dataset}
    form = Dataset(kept)
    form.file_meta = dataset.file_meta
    return dataset, PixelsAt(end, rows.is_implicit_VR, rows.is_little_endian, form)


def read_pixels(file: Path, at: PixelsAt | None) -> Dataset:
    """A dataset with the pixels of an image and their form, to be used inside :func:`quiet`.

    Args:
        file: The file.
        at: What :func:`read_head` gave; None reads the file from its beginning.

    Raises:
        ScanRefused: As :func:`read_dataset`.
    """
    if at is None:
        return read_dataset(file, pixels=True)
    try:
        with file.open("rb") as stream:
            stream.seek(at.offset)
            elements = data_element_generator(stream, at.implicit, at.little)
            # To the end of the file: what is damaged behind the pixels shows, too.
            found = {int(e.tag): e for e in elements}
    except (EOFError, OSError, NotImplementedError, BytesLengthException):
        return read_dataset(file, pixels=True)
    # The header may have ended at a stray delimiter, or go on behind the pixels.
    tags = list(found)
    again = tags[:1] != [_PIXEL_DATA] or runs_past_end(found.values())
    if again or any(t in found for t in (*_OTHER_PIXELS, *_FORM_TAGS)):
        return read_dataset(file, pixels=True)
    held: Any = {tag: at.form.get_item(tag) for tag in _FORM_TAGS if tag in at.form}
    dataset = Dataset(held | {_PIXEL_DATA: found[_PIXEL_DATA]})
    dataset.file_meta = at.form.file_meta
    return dataset


def _parsed(file: Path, *, pixels: bool) -> tuple[Dataset, int | None]:
    """The dataset, and where parsing ended; None where that is no place in the file itself."""
    size = file.stat().st_size
    if size == 0:
        raise refuse("empty-file", file)
    end = None
    try:
        with file.open("rb") as plain:
            packed = plain.read(2) == GZIP_START
            plain.seek(0)
            if packed:
                unpacked = cast(BinaryIO, gzip.GzipFile(fileobj=plain))
                stream = _Bounded(unpacked, MAX_BYTES if pixels else _MAX_HEADER_BYTES)
                dataset = pydicom.dcmread(stream, force=True, stop_before_pixels=not pixels)
            else:
                if size > _MAX_DEFLATED_BYTES and _is_deflated(file):
                    raise refuse("too-large", file, "a deflated file of this size is not opened")
                dataset = pydicom.dcmread(plain, force=True, stop_before_pixels=not pixels)
                end = plain.tell()
    except _BeyondBound:
        raise refuse("too-large", file, "the file unpacks to more than a scan may take") from None
    except (EOFError, OSError, BytesLengthException):
        raise refuse("truncated-file", file, "the header ends too early") from None
    meta = dataset.file_meta
    if meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        raise no_image(file, MediaStorageDirectoryStorage)
    if "Rows" not in dataset:
        _refuse_without_image(dataset, file)
    syntax = meta.get("TransferSyntaxUID")
    if syntax is None:
        meta.TransferSyntaxUID = _syntax(dataset)
    return dataset, None if str(syntax) == _DEFLATED else end


def _refuse_without_image(dataset: Dataset, file: Path) -> None:
    """Say why an object has no rows of pixels: it is no image, was truncated, or was emptied.

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
    raise no_image(file, known)


def no_image(file: Path, sop_class: str | None) -> ScanRefused:
    """The error for a DICOM object of another kind, to be raised by the caller."""
    if sop_class == MediaStorageDirectoryStorage:
        words = "an index, DICOMDIR: give the folder of the images"
    else:
        words = UID(sop_class or "").name.removesuffix(" Storage")
    # Known classes alone have a name; an unknown one is not repeated.
    told = f" ({words})" if words and words != sop_class else ""
    return refuse("not-an-image", file, f"this DICOM object holds no image{told}")


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


def runs_past_end(elements: Iterable[RawDataElement | DataElement]) -> bool:
    """Whether an element of an object is longer than what is left of it; pydicom takes such a one.

    Behind pixels that are not compressed it is no element at all: bytes were put in before, or
    are too many, and where the pixels begin and end is not known. Fragments of compressed ones
    end where they say.
    """
    held = [e for e in elements if isinstance(e, RawDataElement)]
    if any(e.tag == _PIXEL_DATA and e.length == _UNDEFINED_LENGTH for e in held):
        return False
    defined = [e for e in held if e.length != _UNDEFINED_LENGTH]
    return any(len(e.value or b"") < e.length for e in defined)


def is_compressed(dataset: Dataset) -> bool:
    """Whether the transfer syntax says so of the pixels of a dataset."""
    syntax = dataset.file_meta.TransferSyntaxUID
    return bool(syntax.is_transfer_syntax and syntax.is_compressed)


def is_packed_unsaid(dataset: Dataset) -> bool:
    """Whether pixels stand in fragments, as compressed ones do, and the syntax names no packing."""
    if _PIXEL_DATA not in dataset or is_compressed(dataset):
        return False
    element: RawDataElement | DataElement = dataset.get_item(_PIXEL_DATA)
    if isinstance(element, DataElement):
        return bool(element.is_undefined_length)
    return element.length == _UNDEFINED_LENGTH


def missing_attributes(dataset: Dataset) -> tuple[str, ...]:
    """Names of attributes of the pixels that an image must have, and here are absent or empty."""
    return tuple(name for name in (*_DEFAULTS, *_STORED) if _is_empty(dataset, name))


def _is_empty(dataset: Dataset, name: str) -> bool:
    # Looked at as it stands in the file: converting every element would cost a tenth of a header.
    return name not in dataset or dataset.get_item(name).value in (None, "", b"")


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
        odd = bytes_each not in (1, 2, 4) or held - values * bytes_each > 1
        if is_compressed(dataset) or odd:
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

    def __init__(self, stream: BinaryIO, bound: int) -> None:
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
