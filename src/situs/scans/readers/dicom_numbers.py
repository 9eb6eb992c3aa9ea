"""Numbers of a DICOM header: refused where they must be there and are not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from situs.scans.refusals import refuse


def required_numbers(dataset: Dataset, name: str, count: int, file: Path) -> list[float]:
    """The numbers of an element that an image must have, as many as ``count``.

    Raises:
        ScanRefused: ``no-geometry`` where they are not there, or no numbers.
    """
    try:
        values = [float(v) for v in dataset.get(name) or ()]
    except (TypeError, ValueError):
        values = []
    finite = name == "PixelSpacing" or all(map(math.isfinite, values))  # checked as a spacing
    if len(values) != count or not finite:
        raise refuse("no-geometry", file, f"{name} is missing or has not {count} numbers")
    return values


def rescale_value(dataset: Dataset, name: str, default: float, file: Path) -> float:
    """RescaleSlope or RescaleIntercept, ``default`` where there is none.

    Raises:
        ScanRefused: ``unreadable-file`` where it is no number, or a slope of 0.
    """
    value = optional_number(dataset, name, math.nan if dataset.get(name) else default)
    if math.isnan(value):
        raise refuse("unreadable-file", file, f"{name} is no number")
    if name == "RescaleSlope" and value == 0:
        raise refuse("unreadable-file", file, "RescaleSlope is 0, which makes all voxels equal")
    return value


def optional_number(dataset: Dataset, name: str, default: float) -> float:
    """The number of an element, ``default`` where it is absent, empty or no number."""
    value: Any = dataset.get(name)
    try:
        return default if value in (None, "") else float(value)
    except (TypeError, ValueError):
        return default


def padding(dataset: Dataset) -> tuple[float, float] | None:
    """PixelPaddingValue and, where there is one, its range (PS3.3 C.7.5.1.1.2)."""
    for kind in ("Float", "DoubleFloat"):
        if f"{kind}PixelPaddingValue" in dataset:
            value = optional_number(dataset, f"{kind}PixelPaddingValue", math.nan)
            limit = optional_number(dataset, f"{kind}PixelPaddingRangeLimit", value)
            return None if math.isnan(value) else (min(value, limit), max(value, limit))
    if "PixelPaddingValue" not in dataset:
        return None
    one = optional_number(dataset, "PixelPaddingValue", math.nan)
    other = optional_number(dataset, "PixelPaddingRangeLimit", one)
    if math.isnan(one):
        return None
    # Its VR need not be that of the pixels: 63536 is -2000 in 16 bits.
    bits = int(dataset.get("BitsAllocated") or 16)
    signed = bool(dataset.get("PixelRepresentation") or 0)
    ends = sorted(_wrapped(v, bits, signed) for v in (one, other))
    return ends[0], ends[1]


def _wrapped(value: float, bits: int, signed: bool) -> float:
    value %= 2**bits
    return value - 2**bits if signed and value >= 2 ** (bits - 1) else value
