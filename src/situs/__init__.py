"""situs: pretrain encoders on unlabelled 3D medical scans by teaching them where things are."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from situs.errors import ScanRefused, SitusError
from situs.lazy import lazily
from situs.version import __version__

if TYPE_CHECKING:
    from situs.observation import Observation
    from situs.pretraining.monai_views import Viewsd
    from situs.pretraining.plain import Objective, views_dataset
    from situs.pretraining.pretrain import pretrain
    from situs.report.study import study
    from situs.scans.read import read_scan
    from situs.scans.scan import Scan
    from situs.store import Store
    from situs.training.run import Run
    from situs.transfer.finetune import finetune
    from situs.transfer.predict import predict
    from situs.transfer.probe import probe
    from situs.weights import load_encoder

__all__ = [
    "Objective",
    "Observation",
    "Run",
    "Scan",
    "ScanRefused",
    "SitusError",
    "Store",
    "Viewsd",
    "__version__",
    "finetune",
    "load_encoder",
    "predict",
    "pretrain",
    "probe",
    "read_scan",
    "study",
    "views_dataset",
]

# Public name → where it lives; imported when first used, so that ``import situs`` is quick and
# needs no torch.
_LAZY = {
    "Objective": "situs.pretraining.plain",
    "Observation": "situs.observation",
    "Run": "situs.training.run",
    "Scan": "situs.scans.scan",
    "Store": "situs.store",
    "Viewsd": "situs.pretraining.monai_views",
    "finetune": "situs.transfer",
    "load_encoder": "situs.weights",
    "predict": "situs.transfer.predict",
    "pretrain": "situs.pretraining.pretrain",
    "probe": "situs.transfer.probe",
    "read_scan": "situs.scans.read",
    "study": "situs.report.study",
    "views_dataset": "situs.pretraining.plain",
}
_PACKAGES = {
    *("backbones", "catalog", "datasets", "evaluation", "export", "geometry", "methods"),
    *("observation", "planning", "pretraining", "report", "scans", "splits", "store", "studies"),
    *("training", "transfer", "views", "weights"),
}

# What IPython shall show by ``situs.report.display``: module and name of the class.
_SHOWN = (
    ("situs.observation.observation", "Observation"),
    ("situs.scans.scan", "Scan"),
    ("situs.training.run", "Run"),
)


__getattr__, __dir__ = lazily("situs", _LAZY, _PACKAGES)


def load_ipython_extension(shell: Any) -> None:
    """Let a notebook show observations, runs and scans.

    Called by ``%load_ext situs``, and when situs is imported inside IPython.

    Args:
        shell: IPython's.
    """

    def show(item: Any) -> str:
        return str(import_module("situs.report.display").html(item))  # draws; imported when asked

    for module, name in _SHOWN:
        shell.display_formatter.formatters["text/html"].for_type_by_name(module, name, show)


if "IPython" in sys.modules and (_shell := sys.modules["IPython"].get_ipython()) is not None:
    load_ipython_extension(_shell)
