"""Volume contrast as a :class:`~situs.methods.base.Method`."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.methods.base import Batch, Losses, Nets, Network, StepScore
from situs.methods.projection import Projector, pooled_views
from situs.methods.voco.config import VocoConfig
from situs.methods.voco.losses import predicted_overlap, prediction, regularization
from situs.methods.voco.observation import ObservedVoco, Predicted
from situs.methods.voco.views import sample_region
from situs.views.source import Source


class Embedded(NamedTuple):
    """Embeddings of bases ``(B, K, D)`` and crops ``(B, R, D)``; pooled features ``(N, D')``."""

    bases: Tensor
    crops: Tensor
    features: Tensor


class Voco(ObservedVoco):
    """Tell where a crop lies by how much it resembles each base crop of its region."""

    name = "voco"
    title = "Volume contrast"
    paper = "Wu et al., VoCo, CVPR 2024 (arXiv 2402.17300)"
    formulas: ClassVar[dict[str, str]] = {
        "prediction": "mean over crops and bases of −log(1 − |overlap − max(0, cos(crop, base))|)",
        "regularization": "mean over pairs of bases of |cos(base i, base j)|",
    }
    uses_position = True
    remedy = "raise weights.regularization, or use larger crops so that bases differ more"
    shows = "seen_size"
    Config = VocoConfig

    def __init__(self, config: VocoConfig) -> None:
        super().__init__(config)
        self.uses_teacher = config.teacher

    def sample(self, scan: Source, rng: np.random.Generator) -> Batch:
        """A region; see :func:`~situs.methods.voco.views.sample_region`."""
        return sample_region(scan, self.config, rng)

    def heads(self, backbone: Backbone) -> nn.Module:
        """The projection head, on the averages of all scales as in the authors' code."""
        config, channels = self.config, sum(backbone.channels)
        layers, norm = config.head_layers, config.head_norm
        return Projector(channels, config.hidden, config.width, layers, norm)

    def losses(self, batch: Batch, nets: Nets, generator: torch.Generator) -> Losses:
        """Embed bases and crops in one pass and compare them."""
        still = None
        if nets.teacher is not None:
            # Before the student keeps anything for its gradient.
            with torch.no_grad():
                still = _embed(batch, nets.teacher)
        own = _embed(batch, nets.student)
        if still is None:
            found = predicted_overlap(own.crops, own.bases.detach())
        else:
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
        own = _embed(batch, nets.student)
        return Predicted(predicted_overlap(own.crops, own.bases).float().cpu(), own.features)


def _embed(batch: Batch, network: Network) -> Embedded:
    features = pooled_views(network, batch["views"], scales=len(network.backbone.channels))
    bases = batch["overlap"].shape[-1]
    embedded = network.heads(features)
    return Embedded(embedded[:, :bases], embedded[:, bases:], features.flatten(0, 1))
