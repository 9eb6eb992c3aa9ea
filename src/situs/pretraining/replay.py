"""A pretraining's offending step, taken again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from situs import backbones
from situs.config import validate
from situs.methods.composition import compose
from situs.pretraining.config import PretrainConfig
from situs.pretraining.module import Pretraining, step_generator
from situs.training.offending import Found, replay


def replay_pretraining(kept: Mapping[str, Any]) -> list[Found]:
    """Take the step again, see :func:`situs.training.offending.replay`."""
    config = validate(PretrainConfig, kept["config"])
    composition = compose(config.method, config.options, config.weights, config.uncertainty)
    backbone = backbones.build(config.backbone.model_copy(update=kept["backbone"]))
    module = Pretraining(config, composition, backbone, [], [])

    def step(batch: Any) -> Mapping[str, Tensor]:
        generator = step_generator(
            config.seed, kept["step"], kept["micro"], kept["rank"], torch.device("cpu")
        )
        return composition.step(batch, module.student, module.teacher, generator).losses

    return replay(kept, module, step)
