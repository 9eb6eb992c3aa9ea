"""Volume contrast as a :class:`~situs.methods.base.Method`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.methods.base import Batch, Method, MethodConfig, Network, StepResult
from situs.methods.projection import Projector, pooled
from situs.methods.voco.config import VocoConfig
from situs.methods.voco.losses import predicted_overlap, voco
from situs.methods.voco.observation import observe
from situs.methods.voco.views import sample_region
from situs.observation import Observation
from situs.views.source import Source


class Voco(Method):
    """Tell where a crop lies by how much it resembles each base crop of its region."""

    name: ClassVar[str] = "voco"
    title: ClassVar[str] = "Volume contrast"
    paper: ClassVar[str] = "Wu et al., VoCo, CVPR 2024 (arXiv 2402.17300)"
    formulas: ClassVar[dict[str, str]] = {
        "prediction": "mean over crops and bases of −log(1 − |overlap − max(0, cos(crop, base))|)",
        "regularization": "mean over pairs of bases of |cos(base i, base j)|",
    }
    uses_position: ClassVar[bool] = True
    monitor: ClassVar[str] = "overlap_mae"
    Config: ClassVar[type[MethodConfig]] = VocoConfig
    config: VocoConfig

    def __init__(self, config: VocoConfig) -> None:
        super().__init__(config)
        self.uses_teacher = config.teacher

    def sample(self, item: Sequence[Source], rng: np.random.Generator) -> Batch:
        """A region; see :func:`~situs.methods.voco.views.sample_region`."""
        return sample_region(item[0], self.config, rng)

    def build_heads(self, backbone: Backbone) -> nn.Module:
        """The projection head, on the averages of all scales as in the authors' code."""
        backbone.check_size(self.config.seen_size)
        return Projector(sum(backbone.channels), self.config.hidden, self.config.width)

    def step(
        self,
        batch: Batch,
        student: Network,
        teacher: Network | None,
        generator: torch.Generator,
    ) -> StepResult:
        """Embed bases and crops in one pass and compare them."""
        config = self.config
        bases, crops = self._embed(batch, student)[0]
        if teacher is None:
            predicted = predicted_overlap(crops, bases.detach())
        else:
            with torch.no_grad():
                still_bases, still_crops = self._embed(batch, teacher)[0]
            there, back = (
                predicted_overlap(crops, still_bases),
                predicted_overlap(still_crops, bases),
            )
            predicted = (there + back) / 2
        weights = (config.weights.prediction, config.weights.regularization)
        losses = voco(predicted, batch["overlap"], bases, weights, config.form)
        error = (predicted.detach() - batch["overlap"]).abs().mean()
        return StepResult(losses, {"overlap_mae": error})

    def observe(
        self,
        batch: Batch,
        student: Network,
        teacher: Network | None,
        items: Sequence[Sequence[Source]],
        step: int,
    ) -> Observation:
        """Predicted beside true overlaps, and where the crops would lie by them."""
        (bases, crops), features = self._embed(batch, student)
        predicted = predicted_overlap(crops, bases)
        sources = [item[0] for item in items]
        return observe(predicted, features, batch, sources, self.config, step)

    def _embed(self, batch: Batch, network: Network) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Embeddings of bases ``(B, K, D)`` and crops ``(B, R, D)``; pooled features."""
        views, count = batch["views"], batch["overlap"].shape[-1]
        scales = len(network.backbone.channels)
        features = pooled(network.backbone.encode(views.flatten(0, 1)), scales)
        embedded = network.heads(features).unflatten(0, views.shape[:2])
        return (embedded[:, :count], embedded[:, count:]), features
