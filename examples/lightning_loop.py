"""Pretrain with Lightning's own trainer: ``python examples/lightning_loop.py STORE weights``."""

import sys

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

import situs
from situs.backbones import BackboneConfig, build
from situs.weights import Card, save_weights


class Pretraining(pl.LightningModule):
    """A method and its backbone as a Lightning module."""

    def __init__(self, objective: situs.Objective) -> None:
        super().__init__()
        self.objective = objective

    def training_step(self, batch: dict, number: int) -> torch.Tensor:
        terms = self.objective.loss(batch)
        self.log_dict(terms)
        return terms["total"]

    def on_train_batch_end(self, *ignored: object) -> None:
        self.objective.update_teacher()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.objective.trained_parameters(), lr=1e-3)


def main(store_path: str, out: str, method: str = "spatial", steps: int = 100) -> float:
    """Train, save the encoder where ``situs finetune --init`` finds it, return the last loss."""
    pl.seed_everything(0)
    store = situs.Store.open(store_path)
    config = BackboneConfig(name="cnn", options={"channels": [8, 16, 32]})
    backbone = build(config)
    views = situs.views_dataset(method, store, backbone=backbone, samples=4 * steps)
    module = Pretraining(situs.Objective(views, backbone))
    trainer = pl.Trainer(
        max_epochs=1, accelerator="auto", devices=1, logger=False, enable_checkpointing=False
    )
    trainer.fit(module, DataLoader(views, batch_size=4))
    preprocessing = store.preprocessing.model_dump(mode="json")
    save_weights(out, backbone, Card(backbone=config, method=method, preprocessing=preprocessing))
    return float(trainer.callback_metrics["total"])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(main(*sys.argv[1:]))
