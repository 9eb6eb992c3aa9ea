"""Scans: one type, its readers, the catalog of what is there and why something is refused."""

from __future__ import annotations

from situs.errors import ScanRefused
from situs.scans.read import read_scan
from situs.scans.scan import Provenance, Scan

__all__ = ["Provenance", "Scan", "ScanRefused", "read_scan"]
