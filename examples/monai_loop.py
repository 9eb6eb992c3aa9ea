"""Pretrain in a MONAI pipeline: ``python examples/monai_loop.py FOLDER_OF_NIFTIS weights``."""

import sys
from pathlib import Path

import torch
from monai.data import CacheDataset, DataLoader
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    SelectItemsd,
    Spacingd,
)
from monai.utils import set_determinism

import situs
from situs.backbones import BackboneConfig, build
from situs.weights import Card, save_weights

SPACING = (1.0, 1.0, 1.0)


def main(folder: str, out: str, method: str = "mae", epochs: int = 10, batch: int = 2) -> float:
    """Train, save the encoder where ``situs finetune --init`` finds it, return the last loss."""
    set_determinism(0)
    config = BackboneConfig(name="cnn", options={"channels": [8, 16, 32]})
    backbone = build(config)
    views = situs.Viewsd("image", method, backbone=backbone)
    pipeline = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=SPACING),
            NormalizeIntensityd("image"),
            views,  # random: everything before it is cached
            SelectItemsd("views"),
        ]
    )
    files = [{"image": str(file)} for file in sorted(Path(folder).glob("*.nii.gz"))]
    loader = DataLoader(CacheDataset(files, pipeline, progress=False), batch, shuffle=True)
    objective = situs.Objective(views.composition, backbone)
    optimiser = torch.optim.AdamW(objective.trained_parameters(), lr=1e-3)
    total = torch.zeros(())
    for _ in range(epochs):
        for drawn in loader:
            total = objective.loss(drawn["views"])["total"]
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
            objective.update_teacher()
    preprocessing = {"spacing": SPACING, "crop": False}  # what fine-tuning is to do with its scans
    save_weights(out, backbone, Card(backbone=config, method=method, preprocessing=preprocessing))
    return total.item()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(main(*sys.argv[1:]))
