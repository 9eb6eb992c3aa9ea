"""Pretrain with a loop of one's own: ``python examples/plain_loop.py STORE weights``."""

import sys

import torch
from torch.utils.data import DataLoader

import situs
from situs.backbones import BackboneConfig, build
from situs.weights import Card, save_weights


def main(store_path: str, out: str, method: str = "spatial", steps: int = 100) -> float:
    """Train, save the encoder where ``situs finetune --init`` finds it, return the last loss."""
    torch.manual_seed(0)
    store = situs.Store.open(store_path)
    config = BackboneConfig(name="cnn", options={"channels": [8, 16, 32]})
    backbone = build(config)
    views = situs.views_dataset(method, store, backbone=backbone, samples=4 * steps)
    objective = situs.Objective(views, backbone)
    optimiser = torch.optim.AdamW(objective.trained_parameters(), lr=1e-3)
    total = torch.zeros(())
    for batch in DataLoader(views, batch_size=4):
        total = objective.loss(batch)["total"]
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        objective.update_teacher()
    preprocessing = store.preprocessing.model_dump(mode="json")
    save_weights(out, backbone, Card(backbone=config, method=method, preprocessing=preprocessing))
    return total.item()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(main(*sys.argv[1:]))
