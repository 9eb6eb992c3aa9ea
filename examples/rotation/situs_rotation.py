"""A whole method: by how many quarter turns was a view turned (arXiv 1803.07728)?"""

from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from situs.backbones import Backbone
from situs.methods import Batch, Losses, Measured, Method, MethodConfig, Nets, Samples, Scores
from situs.methods.base import StepScore
from situs.observation import MatrixPanel, Section
from situs.views.source import Source
from situs.views.subvolume import random_start

_TURNS = ("not turned", "90°", "180°", "270°")


class RotationConfig(MethodConfig):
    """Voxels of a view along each axis; the first two are turned into each other."""

    default_weights: ClassVar[dict[str, float]] = {"rotation": 1.0}
    size: PositiveInt = 24


class Rotation(Method):
    """Turn a cube about its last axis by a multiple of 90° and ask which it was."""

    name = "rotation"
    title = "Quarter turns of a view"
    paper = "Gidaris et al., arXiv 1803.07728, in three dimensions"
    formulas: ClassVar[dict[str, str]] = {"rotation": "cross entropy over the four turns"}
    monitor = "turn_accuracy"
    Config = RotationConfig
    config: RotationConfig

    @property
    def input_size(self) -> tuple[int, ...]:
        return (self.config.size,) * 3

    def sample(self, scan: Source, rng: np.random.Generator) -> Batch:
        view = scan.read(random_start(scan.shape, self.input_size, rng), self.input_size)
        turns = int(rng.integers(4))
        turned = np.ascontiguousarray(np.rot90(view, turns, axes=(1, 2)))
        return {"view": torch.from_numpy(turned), "turns": torch.tensor(turns)}

    def heads(self, backbone: Backbone) -> nn.Module:
        # Where in the view a structure lies tells the turn: some of it is kept.
        return nn.Sequential(
            nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(8 * backbone.channels[-1], 4)
        )

    def losses(self, batch: Batch, nets: Nets, generator: torch.Generator) -> Losses:
        logits = self.predict(batch, nets)
        right = (logits.argmax(1) == batch["turns"]).float().mean()
        score = StepScore(100 * right, "%", "higher")
        loss = F.cross_entropy(logits, batch["turns"])
        return Losses({"rotation": loss}, {"turns_found": score})

    def predict(self, batch: Batch, nets: Nets) -> Tensor:
        logits: Tensor = nets.student.heads(nets.student.backbone.encode(batch["view"])[-1])
        return logits

    def measure(self, samples: Samples, predicted: Tensor) -> list[Measured]:
        turns = samples.batch["turns"]
        right = 100 * (predicted.argmax(1) == turns).float()
        constant = 100 * turns.bincount(minlength=4).max() / len(turns)
        label = "turns found"
        return [Measured("turn_accuracy", right, "%", "higher", label, 25.0, constant)]

    def sections(
        self, samples: Samples, predicted: Any, nets: Nets, scores: Scores
    ) -> list[Section]:
        said, true = predicted.softmax(1).cpu(), F.one_hot(samples.batch["turns"], 4).cpu()
        panel = MatrixPanel(
            title="Turns: probability beside truth",
            caption="One row a held-out view.",
            predicted=said.double().numpy(),
            true=true.double().numpy(),
            unit="",
        )
        return [Section(self.title, f"One of: {', '.join(_TURNS)}.", panels=(panel,))]
