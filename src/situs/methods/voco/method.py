"""Volume contrast as a :class:`~situs.methods.base.Method`."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.methods.base import (
    Batch,
    Losses,
    Method,
    MethodConfig,
    Nets,
    Network,
    Samples,
    Scores,
    StepScore,
)
from situs.methods.measured import Measured
from situs.methods.projection import Projector, pooled
from situs.methods.voco.config import VocoConfig
from situs.methods.voco.losses import predicted_overlap, prediction, regularization
from situs.methods.voco.observation import Predicted, measure, section
from situs.methods.voco.views import sample_region
from situs.observation import Section
from situs.views.source import Source


class Embedded(NamedTuple):
    """Embeddings of bases ``(B, K, D)`` and crops ``(B, R, D)``; pooled features ``(N, D')``."""

    bases: Tensor
    crops: Tensor
    features: Tensor


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
    monitor = "overlap_mae"
    remedy: ClassVar[str] = (
        "raise weights.regularization, or use larger crops so that bases differ more"
    )
    shows: ClassVar[str] = "seen_size"
    Config: ClassVar[type[MethodConfig]] = VocoConfig
    config: VocoConfig

    def __init__(self, config: VocoConfig) -> None:
        super().__init__(config)
        self.uses_teacher = config.teacher

    def sample(self, scan: Source, rng: np.random.Generator) -> Batch:
        """A region; see :func:`~situs.methods.voco.views.sample_region`."""
        return sample_region(scan, self.config, rng)

    def heads(self, backbone: Backbone) -> nn.Module:
        """The projection head, on the averages of all scales as in the authors' code."""
        config = self.config
        return Projector(
            sum(backbone.channels),
            config.hidden,
            config.width,
            config.head_layers,
            config.head_norm,
        )

    def losses(self, batch: Batch, nets: Nets, generator: torch.Generator) -> Losses:
        """Embed bases and crops in one pass and compare them."""
        own = self._embed(batch, nets.student)
        if nets.teacher is None:
            found = predicted_overlap(own.crops, own.bases.detach())
        else:
            with torch.no_grad():
                still = self._embed(batch, nets.teacher)
            there = predicted_overlap(own.crops, still.bases)
            back = predicted_overlap(still.crops, own.bases)
            found = (there + back) / 2
        form = self.config.form
        terms = {
            "prediction": prediction(found, batch["overlap"], form),
            "regularization": regularization(own.bases, form),
        }
        error = (found.detach() - batch["overlap"]).abs().mean()
        return Losses(terms, {"overlap_mae": StepScore(error, "", "lower")})

    def predict(self, batch: Batch, nets: Nets) -> Predicted:
        """Overlaps, and pooled features of all crops."""
        own = self._embed(batch, nets.student)
        return Predicted(predicted_overlap(own.crops, own.bases).float().cpu(), own.features)

    def measure(self, samples: Samples, predicted: Predicted) -> list[Measured]:
        """Predicted beside true overlaps, and where the crops would lie by them."""
        return measure(predicted, samples)

    def sections(
        self, samples: Samples, predicted: Predicted, nets: Nets, scores: Scores
    ) -> list[Section]:
        """One section."""
        return [section(self.config, predicted, samples)]

    def _embed(self, batch: Batch, network: Network) -> Embedded:
        views, count = batch["views"], batch["overlap"].shape[-1]
        scales = len(network.backbone.channels)
        features = pooled(network.backbone.encode(views.flatten(0, 1)), scales)
        embedded = network.heads(features).unflatten(0, views.shape[:2])
        return Embedded(embedded[:, :count], embedded[:, count:], features)
