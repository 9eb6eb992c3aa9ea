"""A fine-tuning's offending step, taken again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from situs.backbones.base import BackboneConfig
from situs.config import validate
from situs.training.engine import seed_generators
from situs.training.offending import Found, replay
from situs.transfer.config import FinetuneConfig
from situs.transfer.losses import loss_of
from situs.transfer.model import assemble
from situs.transfer.optim import freeze
from situs.transfer.training import Finetuning, step_seed


def replay_finetuning(kept: Mapping[str, Any]) -> list[Found]:
    """Take the step again, see :func:`situs.training.offending.replay`."""
    config = validate(FinetuneConfig, kept["config"])
    built = kept["built"]
    network = assemble(validate(BackboneConfig, built["backbone"]), config.task, built["classes"])
    answer: Literal["label", "target"] = "label" if config.task == "segmentation" else "target"
    loss = loss_of(config.task, config.loss, config.class_weights, built["multi_label"])
    module = Finetuning(network, loss, config, answer, [])
    if config.freeze_encoder:
        freeze(network.backbone.encoder)

    def step(batch: Any) -> Mapping[str, Tensor]:
        seed_generators(step_seed(config.seed, kept["step"]), torch.device("cpu"))
        return loss(network(batch["image"]), batch[answer])

    return replay(kept, module, step)
