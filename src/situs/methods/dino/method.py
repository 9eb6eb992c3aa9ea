"""Self-distillation as a :class:`~situs.methods.base.Method`."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import nn

from situs.backbones.base import Backbone
from situs.methods.base import Batch, Losses, Nets, StepScore
from situs.methods.dino.config import DinoConfig
from situs.methods.dino.heads import DinoHeads
from situs.methods.dino.losses import agreement, balanced, centred, koleo, update_center
from situs.methods.dino.views import sample_views
from situs.methods.projection import pooled_views
from situs.methods.retrieval import Predicted, ViewRetrieval
from situs.views.source import Source


class Dino(ViewRetrieval):
    """A student answers for each view what its average says of the global ones.

    After 3DINO, which brought DINOv2 to scans: global and local crops, a centred and sharpened
    teacher, spread embeddings. Its masked tokens (iBOT) need a transformer and are left out.
    """

    name = "dino"
    title = "Self-distillation of global and local views"
    paper = (
        "Xu et al., A generalizable 3D framework and model for self-supervised learning in medical "
        "imaging (3DINO), npj Digital Medicine 2025; Caron et al., ICCV 2021 (arXiv 2104.14294)"
    )
    formulas: ClassVar[dict[str, str]] = {
        "distillation": "mean over x, x' ≠ x of −Σ_k softmax((z_t(x) − c) / τ_t) "
        "log softmax(z_s(x') / τ_s)",
        "koleo": "−mean log of the distance to the nearest other embedding",
    }
    remedy = "lower teacher_temperature or the learning rate, or raise the teacher's momentum"
    uses_teacher = True
    shows = "global_size"
    Config = DinoConfig
    config: DinoConfig

    def sample(self, scan: Source, rng: np.random.Generator) -> Batch:
        """Global and local views; see :func:`~situs.methods.dino.views.sample_views`."""
        return sample_views(scan, self.config, rng)

    def heads(self, backbone: Backbone) -> nn.Module:
        """The projection head with its prototypes."""
        if self.config.locals:
            backbone.check_size(self.config.local_size)
        return DinoHeads(backbone.channels[-1], self.config)

    def losses(self, batch: Batch, nets: Nets, generator: torch.Generator) -> Losses:
        """Ask the teacher for the global views and the student for all."""
        config, student, teacher = self.config, nets.student, nets.teacher
        heads: DinoHeads = student.heads
        assert teacher is not None
        with torch.no_grad():
            asked = teacher.heads(pooled_views(teacher, batch["views"]).movedim(1, 0))
        shown = pooled_views(student, batch["views"]).movedim(1, 0)  # (2, B, D)
        answers = heads(shown)
        if config.locals:
            parts = pooled_views(student, batch["parts"]).movedim(1, 0)
            answers = torch.cat([answers, heads(parts)])
        if config.centering == "sinkhorn":
            target = balanced(asked, config.teacher_temperature)
        else:
            target = centred(asked, heads.center, config.teacher_temperature)
        terms = {"distillation": agreement(answers, target, config.student_temperature)}
        if self.wants("koleo"):
            terms["koleo"] = koleo(shown)
        used = torch.special.entr(target.flatten(0, 1).mean(0)).sum().exp()
        if torch.is_grad_enabled() and student.training:
            update_center(heads.center, asked, config.center_momentum)
        return Losses(terms, {"prototypes_used": StepScore(used)})

    def predict(self, batch: Batch, nets: Nets) -> Predicted:
        """Embeddings of the global views and their pooled features."""
        features = pooled_views(nets.student, batch["views"])
        return Predicted(nets.student.heads.embed(features).cpu(), features)
