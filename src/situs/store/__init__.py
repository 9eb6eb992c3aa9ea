"""Preprocessing, the chunked store, and its reader."""

from __future__ import annotations

from situs.store.estimate import estimate_bytes, median_spacing
from situs.store.prepare import prepare
from situs.store.preprocess import Prepared, preprocess, restore, restore_largest
from situs.store.preprocessing import Preprocessing
from situs.store.record import Record
from situs.store.store import Store, StoredScan

__all__ = [
    "Prepared",
    "Preprocessing",
    "Record",
    "Store",
    "StoredScan",
    "estimate_bytes",
    "median_spacing",
    "prepare",
    "preprocess",
    "restore",
    "restore_largest",
]
