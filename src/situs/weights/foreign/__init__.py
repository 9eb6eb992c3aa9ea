"""Weights that others trained, as a weights folder of situs with ledger and card."""

from __future__ import annotations

from situs.weights.foreign.convert import Imported, import_weights, layouts

__all__ = ["Imported", "import_weights", "layouts"]
