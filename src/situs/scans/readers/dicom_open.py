"""Open DICOM files: without a word of what their headers say, and without inflating bombs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from situs.scans.refusals import refuse

_DEFLATED = "1.2.840.10008.1.2.1.99"
# zlib expands by up to 1032:1, and pydicom inflates a deflated file as a whole.
_MAX_DEFLATED_BYTES = 4 * 2**20


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
    """The dataset of one file; to be used inside :func:`quiet`.

    Raises:
        ScanRefused: ``empty-file``, ``truncated-file``, ``not-an-image`` or ``too-large``.
    """
    size = file.stat().st_size
    if size == 0:
        raise refuse("empty-file", file)
    try:
        if size > _MAX_DEFLATED_BYTES and _is_deflated(file):
            raise refuse("too-large", file, "a deflated file of this size is not opened")
        dataset = pydicom.dcmread(file, force=True, stop_before_pixels=not pixels)
    except (EOFError, OSError):
        raise refuse("truncated-file", file, "the header ends too early") from None
    if "SOPClassUID" not in dataset and "Rows" not in dataset:
        if getattr(dataset, "preamble", None):
            raise refuse("truncated-file", file, "the header ends too early")
        raise refuse("not-an-image", file, "this is no DICOM object")
    return dataset


def _is_deflated(file: Path) -> bool:
    try:
        meta = pydicom.filereader.read_file_meta_info(file)
    except pydicom.errors.InvalidDicomError:
        return False
    return str(meta.get("TransferSyntaxUID", "")) == _DEFLATED
