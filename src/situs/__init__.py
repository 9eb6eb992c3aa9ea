"""situs: pretrain encoders on unlabelled 3D medical scans by teaching them where things are."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from situs.errors import ScanRefused, SitusError

if TYPE_CHECKING:
    from situs.observation import Observation
    from situs.pretraining.pretrain import pretrain
    from situs.scans.read import read_scan
    from situs.scans.scan import Scan
    from situs.store import Store
    from situs.training.run import Run
    from situs.transfer.finetune import finetune
    from situs.weights import load_encoder

__version__ = "0.1.0"

__all__ = [
    "Observation",
    "Run",
    "Scan",
    "ScanRefused",
    "SitusError",
    "Store",
    "__version__",
    "finetune",
    "load_encoder",
    "pretrain",
    "read_scan",
]

# Public name → where it lives; imported when first used, so that ``import situs`` is quick and
# needs no torch.
_LAZY = {
    "Observation": "situs.observation",
    "Run": "situs.training.run",
    "Scan": "situs.scans.scan",
    "Store": "situs.store",
    "finetune": "situs.transfer",
    "load_encoder": "situs.weights",
    "pretrain": "situs.pretraining.pretrain",
    "read_scan": "situs.scans.read",
}
_PACKAGES = {"backbones", "geometry", "methods", "observe", "scans", "store", "transfer", "views"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name in _PACKAGES:
        return import_module(f"situs.{name}")
    raise AttributeError(f"module 'situs' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_PACKAGES})
