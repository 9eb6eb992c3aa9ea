"""Preprocessing, the chunked store, and its reader."""

from __future__ import annotations

from situs.store.preprocess import Prepared, preprocess, restore
from situs.store.rules import Preprocessing

__all__ = ["Prepared", "Preprocessing", "preprocess", "restore"]
