"""The method ``s2dc``: semantic discrepancy and consistency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from situs.backbones.base import Backbone
from situs.methods.base import Batch, Method, MethodConfig, Network, StepResult
from situs.methods.projection import pooled
from situs.methods.s2dc.config import NORMAL_AXIS, S2dcConfig
from situs.methods.s2dc.heads import S2dcHeads, heads_of
from situs.methods.s2dc.losses import consistency, discrepancy, info_nce
from situs.methods.s2dc.observation import observe
from situs.methods.s2dc.presets import PRESETS
from situs.methods.s2dc.sinkhorn import log_sinkhorn
from situs.methods.s2dc.tokens import (
    Encoded,
    Problem,
    correspondence,
    encode_crops,
    encode_region,
    slice_pairs,
    slice_tokens,
    token_grid,
    token_stage,
    top1_accuracy,
    warn_of_tokens,
)
from situs.methods.s2dc.views import sample_region
from situs.observation import Observation
from situs.views.source import Source


class S2dc(Method):
    """Find every place of a region again in its moved copy (arXiv 2507.02581)."""

    name: ClassVar[str] = "s2dc"
    title: ClassVar[str] = "Matching a region with its moved copy"
    paper: ClassVar[str] = (
        "Pan et al., Structure-aware Semantic Discrepancy and Consistency for 3D Medical Image "
        "Self-supervised Learning, ICCV 2025 (arXiv 2507.02581)"
    )
    uses_teacher = True
    uses_position: ClassVar[bool] = True
    monitor: ClassVar[str] = "match_accuracy"
    formulas: ClassVar[dict[str, str]] = {
        "p2p": "−mean log P on matches − mean log(1 − P) on the rest;  "
        "P: transport plan of S = q·k with a dustbin",
        "p2s": "−Σ w log M on matches − mean log(1 − M) on the rest;  "
        "M = (1 + S) / 2,  w = softmax((max − mean) / std)",
        "global": "−log softmax(q·k / τ) of a crop and its augmented copy, among crops and queue",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS
    Config: ClassVar[type[MethodConfig]] = S2dcConfig
    config: S2dcConfig

    def sample(self, item: Sequence[Source], rng: np.random.Generator) -> Batch:
        """A region and its moved copy; see :func:`~situs.methods.s2dc.views.sample_region`."""
        return sample_region(item[0], self.config, rng)

    def build_heads(self, backbone: Backbone) -> S2dcHeads:
        """Projections for the chosen stage and for crops, dustbin, queue.

        Raises:
            ConfigError: If the crop does not fit the backbone or the stage does not exist.
        """
        backbone.check_size(self.config.crop_size)
        stage = token_stage(self.config, backbone)
        warn_of_tokens(self.config, backbone)
        return S2dcHeads(backbone.channels[stage], backbone.channels[-1], self.config)

    def step(
        self,
        batch: Batch,
        student: Network,
        teacher: Network | None,
        generator: torch.Generator,
    ) -> StepResult:
        """The student encodes the region, the teacher the moved copy; all terms."""
        teacher = teacher or student
        weights = self.config.weights
        near = encode_region(self.config, batch["source"], student)
        terms: dict[str, Tensor] = {}
        scores: dict[str, Tensor] = {}
        if weights["p2p"] or weights["p2s"]:
            with torch.no_grad():
                far = encode_region(self.config, batch["moved"], teacher)
            problem = correspondence(self.config, batch, student.backbone)
            terms, scores = self._matching(near, far, problem, student)
        if weights["global"]:
            heads = heads_of(student.heads)
            with torch.no_grad():
                copies = encode_crops(batch["augmented"].flatten(0, 1), teacher.backbone)
                keys = heads_of(teacher.heads).crops(pooled(copies))
            chosen = batch["augmented_crop"][..., None].expand(-1, -1, near.crops.shape[-1])
            queries = heads.crops(near.crops.gather(1, chosen).flatten(0, 1))
            terms["global"] = info_nce(
                queries, keys, heads.queue.keys(), self.config.global_temperature
            )
            if student.training:
                heads.queue.push(keys)
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()  # type: ignore[index]
        return StepResult({**terms, "total": total}, scores)

    def _matching(
        self, near: Encoded, far: Encoded, problem: Problem, student: Network
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        grid = token_grid(self.config, student.backbone)
        axis = NORMAL_AXIS[self.config.motion.plane] if self.config.per_slice else None
        q, k = (slice_tokens(e.tokens, grid, axis) for e in (near, far))
        matches, valid = (slice_pairs(p, grid, axis) for p in problem)
        with torch.autocast(q.device.type, enabled=False):
            similarity = q @ k.mT
            terms = {}
            if self.config.weights["p2p"]:
                plan = log_sinkhorn(
                    torch.where(valid, similarity / self.config.temperature, -torch.inf),
                    heads_of(student.heads).dustbin,
                    self.config.iterations,
                    self.config.tolerance,
                )
                terms["p2p"] = discrepancy(plan, matches, valid)
            if self.config.weights["p2s"]:
                terms["p2s"] = consistency(similarity, matches, valid)
        return terms, {"match_accuracy": 100 * top1_accuracy(similarity.detach(), matches, valid)}

    def observe(
        self,
        batch: Batch,
        student: Network,
        teacher: Network | None,
        items: Sequence[Sequence[Source]],
        step: int,
    ) -> Observation:
        """Matches, transport plan, sharpness and token colours on held-out regions."""
        del teacher  # what is exported is the student, so it encodes both sides here
        return observe(self.config, batch, student, [item[0] for item in items], step)
