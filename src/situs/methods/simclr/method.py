"""Contrast of augmented views as a :class:`~situs.methods.base.Method`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.methods.base import Batch, Method, MethodConfig, Network, StepResult
from situs.methods.projection import Projector, pooled
from situs.methods.simclr.config import SimClrConfig
from situs.methods.simclr.losses import nt_xent
from situs.methods.simclr.observation import observe, retrieval
from situs.methods.simclr.views import sample_pair
from situs.observation import Observation
from situs.views.source import Source


class SimClr(Method):
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
    monitor: ClassVar[str] = "retrieval_accuracy"
    least_batch = 2
    Config: ClassVar[type[MethodConfig]] = SimClrConfig
    config: SimClrConfig

    def __init__(self, config: SimClrConfig) -> None:
        super().__init__(config)
        self.spatial_dims = len(config.view_size)

    def sample(self, item: Sequence[Source], rng: np.random.Generator) -> Batch:
        """Two views; see :func:`~situs.methods.simclr.views.sample_pair`."""
        return sample_pair(item[0], self.config, rng)

    def build_heads(self, backbone: Backbone) -> nn.Module:
        """The projection head."""
        backbone.check_size(self.config.view_size)
        return Projector(backbone.channels[-1], self.config.hidden, self.config.width)

    def step(
        self,
        batch: Batch,
        student: Network,
        teacher: Network | None,
        generator: torch.Generator,
    ) -> StepResult:
        """Embed all views in one pass and contrast them."""
        embeddings, _ = _embed(batch, student)
        first, second = embeddings.unbind(1)
        losses = nt_xent(first, second, self.config.temperature)
        same = torch.eye(len(first), dtype=torch.bool, device=first.device)
        _, _, right = retrieval(first.detach(), second.detach(), same)
        return StepResult(losses, {"batch_retrieval": 100 * right.float().mean()})

    def observe(
        self,
        batch: Batch,
        student: Network,
        teacher: Network | None,
        items: Sequence[Sequence[Source]],
        step: int,
    ) -> Observation:
        """Nearest neighbours among held-out views."""
        embeddings, features = _embed(batch, student)
        return observe(embeddings, features, batch, [item[0] for item in items], step)


def _embed(batch: Batch, network: Network) -> tuple[Tensor, Tensor]:
    """Embeddings ``(B, 2, D)`` and pooled features ``(B, 2, D')``."""
    views = batch["views"]
    features = pooled(network.backbone.encode(views.flatten(0, 1)))
    shape = views.shape[:2]
    return network.heads(features).unflatten(0, shape), features.unflatten(0, shape)
