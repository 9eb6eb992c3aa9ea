"""Contrast of augmented views as a :class:`~situs.methods.base.Method`."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import nn

from situs.backbones.base import Backbone
from situs.methods.base import Batch, Losses, Nets, StepScore
from situs.methods.projection import Projector, pooled_views
from situs.methods.retrieval import Predicted, ViewRetrieval, retrieval
from situs.methods.simclr.config import SimClrConfig
from situs.methods.simclr.losses import nt_xent
from situs.views.crops import cut_views, draw_near, places_of
from situs.views.source import Source
from situs.views.subvolume import slice_axis


class SimClr(ViewRetrieval):
    """Two changed views of one place should look alike, views of other scans should not.

    The loss is the paper's (equation 1), and so is the projection head (section 2.1) but for its
    layer normalisation, which is ours. So are the views: near each other, since far places of a
    scan should not look alike, and changed as scans differ.
    """

    name = "simclr"
    title = "Contrast of augmented views"
    paper = (
        "Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, "
        "ICML 2020 (arXiv 2002.05709)"
    )
    formulas: ClassVar[dict[str, str]] = {
        "nt_xent": "mean over views of −log exp(s_ij / τ) / Σ_{k≠i} exp(s_ik / τ), s = cosine",
    }
    remedy = "enlarge the batch, strengthen the intensity changes, or raise the temperature"
    shows = "view_size"
    Config = SimClrConfig
    config: SimClrConfig

    def sample(self, scan: Source, rng: np.random.Generator) -> Batch:
        """Two views, ``views (2, C, *view_size)``, and where they lie in the scan.

        Returns:
            With ``start (2, 3)`` and ``extent (2, 3)`` in scan voxels.
        """
        config, size = self.config, self.config.view_size
        axis = slice_axis(scan, len(size), rng, config.axes)
        crops = draw_near(scan.shape, size, config.zoom, config.flip, config.max_shift, rng, axis)
        return {"views": cut_views(scan, crops, size, axis, config.intensity, rng)} | places_of(
            crops
        )

    def heads(self, backbone: Backbone) -> nn.Module:
        """The projection head."""
        return Projector(backbone.channels[-1], self.config.hidden, self.config.width)

    def losses(self, batch: Batch, nets: Nets, generator: torch.Generator) -> Losses:
        """Embed all views in one pass and contrast them."""
        first, second = nets.student.heads(pooled_views(nets.student, batch["views"])).unbind(1)
        loss = nt_xent(first, second, self.config.temperature)
        same = torch.eye(len(first), dtype=torch.bool, device=first.device)
        right = retrieval(first.detach(), second.detach(), same)[2].float().mean()
        return Losses({"nt_xent": loss}, {"retrieval": StepScore(100 * right, "%", "higher")})

    def predict(self, batch: Batch, nets: Nets) -> Predicted:
        """Embeddings and pooled features of all views."""
        features = pooled_views(nets.student, batch["views"])
        return Predicted(nets.student.heads(features).cpu(), features)
