"""Which bits of a DICOM pixel hold its value, and which its sign (PS3.5 8.1.1)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments
from pydicom.pixels.utils import get_j2k_parameters

from situs.scans.readers.dicom_lossless import segments
from situs.scans.readers.dicom_open import OVERLAY_BIT_POSITIONS, is_compressed

_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15, SOF55


class UntrueBitsError(ValueError):
    """The pixels do not hold what the header says of their bits; completes 'the file …'."""


class Alignment(NamedTuple):
    """What :func:`ask_for_all_bits` hid from the decoder.

    Attributes:
        stored: BitsStored and the bits below, 0 where the decoder knows.
        below: Bits below the stored ones.
    """

    stored: int
    below: int


def holds_more(dataset: Dataset) -> bool:
    """Whether pixels that are not compressed are more than the header says, but for zeros.

    Decoders take the first of them: with too few columns a slice is sheared, and with too few
    frames some are lost.
    """
    if is_compressed(dataset) or int(dataset.SamplesPerPixel) != 1:
        return False
    frames = int(dataset.get("NumberOfFrames") or 1)
    bits = int(dataset.Rows) * int(dataset.Columns) * frames * int(dataset.BitsAllocated)
    behind = dataset.PixelData[(bits + 7) // 8 :]
    return len(behind) > 1 and bool(behind.strip(b"\0"))  # one byte makes their number even


def ask_for_all_bits(dataset: Dataset) -> Alignment:
    """Change a header so that values fill their cells.

    pydicom takes the high bit for granted, and would drop left-aligned values' own. Some
    decoders reduce values to BitsStored, and some do not: told of all bits, none does, and whether
    the header is true can be seen.
    """
    stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    high, below = int(dataset.HighBit), 0
    if not is_compressed(dataset) and stored <= high < allocated:
        stored, below = high + 1, high + 1 - stored
        dataset.BitsStored = stored
    if not 1 <= stored < allocated:
        return Alignment(0, below)
    dataset.BitsStored, dataset.HighBit = allocated, allocated - 1
    return Alignment(stored, below)


def stored_values(
    frames: npt.NDArray[Any], dataset: Dataset, alignment: Alignment
) -> npt.NDArray[Any]:
    """The values that the header says stand in decoded cells, with their signs.

    Args:
        frames: Whole cells.
        dataset: What they were decoded from; BitsStored becomes again what it was.
        alignment: What :func:`ask_for_all_bits` gave.

    Raises:
        UntrueBitsError: If bits outside the stored ones are set that are no overlay, or which
            values are negative is not clear.
    """
    if alignment.stored:
        dataset.BitsStored = alignment.stored
        frames = _in_stored_bits(frames, dataset)
    if is_compressed(dataset):
        _check_sign(frames, dataset)
    frames = _signed(frames, dataset)
    if not alignment.below:
        return frames
    if (frames & ((2**alignment.below - 1) & ~_overlays(dataset))).any():
        raise UntrueBitsError("has values below the bits that HighBit names")
    return frames >> alignment.below


def _in_stored_bits(frames: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[Any]:
    """Values that take no more bits than those in which the header says they stand.

    Values with a sign may leave the bits above it empty, or fill all of them with it. An overlay
    that the header places in those bits (PS3.5-2004, 8.1.1) is dropped.
    """
    stored = int(dataset.BitsStored)
    low, high = int(frames.min()), int(frames.max())
    half = 2 ** (stored - 1)
    if (low >= -half and high < half) or (low >= 0 and high < 2 * half):
        return frames
    above = (2 ** (8 * frames.itemsize) - 2 * half) & ~_overlays(dataset)
    if (_cells(frames) & above).any():
        detail = f"has values of more bits than BitsStored ({stored}) says"
        told = "" if is_compressed(dataset) else ", and the header names no overlay in them"
        raise UntrueBitsError(detail + told)
    return frames & (2 * half - 1)


def _cells(frames: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The bits of whole numbers as numbers without a sign, in this machine's order of bytes."""
    native = frames.astype(frames.dtype.newbyteorder("="), copy=False)
    return native.view(f"u{frames.itemsize}")


def _overlays(dataset: Dataset) -> int:
    """The bits of a cell in which the header says that overlays stand; none of compressed pixels.

    A position of 0 says that an overlay stands apart from the pixels.
    """
    if is_compressed(dataset):
        return 0
    said = [dataset[tag].value for tag in OVERLAY_BIT_POSITIONS if tag in dataset]
    return sum(2**place for place in {p for p in said if isinstance(p, int) and p > 0})


def _check_sign(frames: npt.NDArray[Any], dataset: Dataset) -> None:
    """Refuse values of which header and compressed stream do not agree whether they are negative.

    JPEG and JPEG-LS know no sign, JPEG 2000 does. Of a stream without one, decoders take its
    highest bit for the sign, or that of BitsStored, or none: where the two are not one, values
    with the former set are unclear. Of a sign that the header does not name they make other
    values, each its own.
    """
    streams = [said for part in generate_fragments(dataset.PixelData) if (said := _said(part))]
    stored, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    low, high = int(frames.min()), int(frames.max())
    if any(own_sign for _, own_sign in streams):
        if not signed:
            raise UntrueBitsError("is compressed with a sign, and PixelRepresentation says without")
        if not -(2 ** (stored - 1)) <= low <= high < 2 ** (stored - 1):
            detail = f"has values of more bits than BitsStored ({stored}) says, with their sign"
            raise UntrueBitsError(detail)
    bits = min((bits for bits, own_sign in streams if not own_sign), default=stored)
    if signed and bits < stored and (low < 0 or high >= 2 ** (bits - 1)):
        detail = f"is compressed with {bits} bits, BitsStored says {stored}"
        raise UntrueBitsError(f"{detail}: which of its values are negative is not clear")


def _said(stream: bytes) -> tuple[int, bool] | None:
    """Bits of a value, and whether one is its sign, as a compressed stream says; None of others."""
    if not stream.startswith(b"\xff\xd8"):
        told = get_j2k_parameters(stream)
        return (told["precision"], told["is_signed"]) if "precision" in told else None
    frame = next((body for kind, body in segments(stream)[0] if kind in _FRAME_MARKERS), b"")
    return (frame[0], False) if frame else None


def _signed(frames: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[Any]:
    """Signed values whose sign is the highest of the bits stored.

    Where it was put right already, this changes nothing.
    """
    stored, size = int(dataset.BitsStored), frames.itemsize
    if not (dataset.PixelRepresentation == 1 and 1 < stored < int(dataset.BitsAllocated)):
        return frames
    if frames.max() < 2 ** (stored - 1):
        return frames
    above = 8 * size - stored
    values: npt.NDArray[Any] = (_cells(frames) << above).view(f"i{size}")
    values >>= above
    return values
