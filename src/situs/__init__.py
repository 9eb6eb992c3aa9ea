"""situs: pretrain encoders on unlabelled 3D medical scans by teaching them where things are."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from situs.errors import ScanRefused, SitusError

if TYPE_CHECKING:
    from situs.scans.read import read_scan
    from situs.scans.scan import Scan
    from situs.weights import load_encoder

__version__ = "0.1.0"

__all__ = ["Scan", "ScanRefused", "SitusError", "__version__", "load_encoder", "read_scan"]

# Public name → where it lives; imported when first used, so that ``import situs`` is quick and
# needs no torch.
_LAZY = {
    "Scan": "situs.scans.scan",
    "load_encoder": "situs.weights",
    "read_scan": "situs.scans.read",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'situs' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
