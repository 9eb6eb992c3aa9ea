"""Contrast of augmented views as a :class:`~situs.methods.base.Method`."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.methods.base import (
    Batch,
    Losses,
    MethodConfig,
    Nets,
    Network,
    StepScore,
)
from situs.methods.projection import Projector, pooled
from situs.methods.retrieval import Predicted, ViewRetrieval, retrieval
from situs.methods.simclr.config import SimClrConfig
from situs.methods.simclr.losses import nt_xent
from situs.methods.simclr.views import sample_pair
from situs.views.source import Source


class SimClr(ViewRetrieval):
    """Two changed views of one place should look alike, views of other scans should not."""

    name: ClassVar[str] = "simclr"
    title: ClassVar[str] = "Contrast of augmented views"
    paper: ClassVar[str] = (
        "Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, "
        "ICML 2020 (arXiv 2002.05709)"
    )
    formulas: ClassVar[dict[str, str]] = {
        "nt_xent": "mean over views of −log exp(s_ij / τ) / Σ_{k≠i} exp(s_ik / τ), s = cosine",
    }
    remedy: ClassVar[str] = (
        "enlarge the batch, strengthen the intensity changes, or raise the temperature"
    )
    shows: ClassVar[str] = "view_size"
    Config: ClassVar[type[MethodConfig]] = SimClrConfig
    config: SimClrConfig

    def sample(self, scan: Source, rng: np.random.Generator) -> Batch:
        """Two views; see :func:`~situs.methods.simclr.views.sample_pair`."""
        return sample_pair(scan, self.config, rng)

    def heads(self, backbone: Backbone) -> nn.Module:
        """The projection head."""
        return Projector(backbone.channels[-1], self.config.hidden, self.config.width)

    def losses(self, batch: Batch, nets: Nets, generator: torch.Generator) -> Losses:
        """Embed all views in one pass and contrast them."""
        first, second = _embed(batch, nets.student)[0].unbind(1)
        loss = nt_xent(first, second, self.config.temperature)
        same = torch.eye(len(first), dtype=torch.bool, device=first.device)
        right = retrieval(first.detach(), second.detach(), same)[2].float().mean()
        return Losses({"nt_xent": loss}, {"retrieval": StepScore(100 * right, "%", "higher")})

    def predict(self, batch: Batch, nets: Nets) -> Predicted:
        """Embeddings and pooled features of all views."""
        embeddings, features = _embed(batch, nets.student)
        return Predicted(embeddings.cpu(), features)


def _embed(batch: Batch, network: Network) -> tuple[Tensor, Tensor]:
    """Embeddings ``(B, 2, D)`` and pooled features ``(B, 2, D')``."""
    views = batch["views"]
    features = pooled(network.backbone.encode(views.flatten(0, 1)))
    shape = views.shape[:2]
    return network.heads(features).unflatten(0, shape), features.unflatten(0, shape)
