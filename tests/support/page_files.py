"""Files that pages speak of and that come from elsewhere: made by the packages' own classes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from monai.networks.nets import SwinUNETR
from nnunet_data import plan, scan_files, small
from torch import nn


def _voco(file: Path) -> None:
    """Weights as VoCo publishes them, of a small network."""
    torch.manual_seed(3)
    network = SwinUNETR(
        1, 4, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 6), use_v2=True
    )
    whole = nn.ModuleDict({"backbone": network, "student": nn.Linear(5, 3)})
    torch.save(whole.state_dict(), file)


def _plans(file: Path) -> None:
    """Plans of nnU-Net's own planner, for a small network."""
    with tempfile.TemporaryDirectory() as root:
        small(plan(Path(root), scan_files(Path(root), "Z")), file)


MADE = {"VoComni_B.pt": _voco, "nnUNetResEncUNetLPlans.json": _plans}
"""How each is made, by the name that pages give it."""
