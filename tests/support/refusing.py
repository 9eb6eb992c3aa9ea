"""Scans that must be refused, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import situs
from situs.scans.read import read_scan
from situs.scans.refusals import REASONS


def refused(path: Path, reason: str = "", **options: Any) -> situs.ScanRefused:
    """The refusal of a scan, for a known reason (this one, where one is named)."""
    with pytest.raises(situs.ScanRefused) as caught:
        read_scan(path, **options)
    assert caught.value.reason in REASONS
    assert not reason or caught.value.reason == reason, str(caught.value)
    return caught.value
