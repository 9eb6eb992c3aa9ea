"""Decode DICOM pixels with the GDCM inside SimpleITK, and hear what its JPEG decoder says."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pydicom
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it so
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLETransferSyntaxes,
)

from situs.errors import ScanRefused
from situs.scans.readers.dicom_lossless import bytes_are_left
from situs.scans.readers.dicom_open import FORM_OF_PIXELS, is_compressed
from situs.scans.refusals import refuse

_MULTIFRAME_GREY = "1.2.840.10008.5.1.4.1.1.7.3"  # word-sized multi-frame secondary capture
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# libjpeg's warnings that values were left out, or made up (jerror.h: JWRN_HIT_MARKER and its like).
_COMPLAINT = re.compile(r"Corrupt JPEG data|Premature end of JPEG file")
_BEHIND = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
_DECODED = (
    *JPEGTransferSyntaxes,
    *JPEGLSTransferSyntaxes,
    *JPEG2000TransferSyntaxes,
    *RLETransferSyntaxes,
)
_LISTENING = threading.Lock()


def is_jpeg(dataset: Dataset) -> bool:
    """Whether pixels are packed as JPEG (ISO 10918), with or without loss."""
    return dataset.file_meta.TransferSyntaxUID in JPEGTransferSyntaxes


def decode_with_gdcm(dataset: Dataset, path: Path, which: str) -> npt.NDArray[Any]:
    """Decode a compressed image with the GDCM inside SimpleITK.

    It is given a file with the pixels alone: no identifiers, and no rescaling, which situs
    does itself for each slice.

    Args:
        dataset: With the pixels and their form.
        path: Of the scan, for errors.
        which: The file among those of the scan, for errors.

    Raises:
        ScanRefused: ``truncated-file`` for damaged streams, those among them that the decoder
            fills up or goes on behind; ``unsupported-compression`` where nothing decodes them.
    """
    bare = Dataset()
    for name in (*FORM_OF_PIXELS, "PixelData"):
        if name in dataset:
            bare[name] = dataset[name]
    many = int(dataset.get("NumberOfFrames") or 1)
    streams: list[bytes] = []
    if is_compressed(dataset):
        try:
            # GDCM may look for the end of damaged fragments for ever: it gets whole ones.
            fragments = list(generate_fragments(dataset.PixelData))[1:]
        except (ValueError, EOFError):
            detail = f"{which} has damaged pixels"
            raise refuse("truncated-file", path, detail) from None
        if many == 1 or len(fragments) == many:
            streams = fragments if many > 1 else [b"".join(fragments)]
            bare.PixelData = encapsulate(streams)
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
            with _complaints() as said:
                array = sitk.GetArrayFromImage(reader.Execute())
        except RuntimeError:
            raise _undecoded(dataset.file_meta.TransferSyntaxUID, path, which) from None
    frames: npt.NDArray[Any] = array.reshape(-1, *array.shape[-2:])
    left = is_jpeg(dataset) and any(map(bytes_are_left, streams, frames))
    if left or any(not _is_padding(line, dataset) for line in said):
        # What the decoder gave are values all the same, some of which nobody wrote.
        raise refuse("truncated-file", path, f"{which} has damaged pixels")
    return frames


def _undecoded(syntax: UID, path: Path, which: str) -> ScanRefused:
    """Why pixels were not decoded: they are damaged, or there is no decoder."""
    if syntax in _DECODED:
        return refuse("truncated-file", path, f"{which} has damaged pixels")
    # Known syntaxes alone have a name; an unknown one is not repeated.
    told = f"no decoder at hand for {syntax.name}" if syntax.name != syntax else ""
    return refuse("unsupported-compression", path, told)


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Hear what libjpeg says of damage meanwhile.

    It goes on behind damage with values of its own, and says so on the process's standard error
    alone. Whatever else is written there is passed on.

    Yields:
        What it said, a list that is filled at the end.
    """
    said: list[str] = []
    with _LISTENING, tempfile.TemporaryFile() as heard:
        kept = None
        with suppress(OSError):  # a process may have none
            kept = os.dup(2)
        os.dup2(heard.fileno(), 2)
        try:
            yield said
        finally:
            if kept is None:
                os.close(2)
            else:
                os.dup2(kept, 2)
                os.close(kept)
            heard.seek(0)
            for line in heard.read().decode(errors="replace").splitlines(keepends=True):
                if _COMPLAINT.search(line):
                    said.append(line)
                elif kept is not None:
                    with suppress(OSError):  # nobody listens any more, which is no fault of a scan
                        os.write(2, line.encode(errors="replace"))


def _is_padding(complaint: str, dataset: Dataset) -> bool:
    """Whether libjpeg speaks of zeros alone, with which some encoders fill up their stream."""
    found = _BEHIND.search(complaint)
    stream = b"".join(list(generate_fragments(dataset.PixelData))[1:])
    if found is None or stream.count(b"\xff\xd9") != 1:
        return False
    end = stream.index(b"\xff\xd9")
    return not stream[end - int(found[1]) : end].strip(b"\0")
