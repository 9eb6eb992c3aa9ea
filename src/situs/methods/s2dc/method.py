"""The method ``s2dc``: semantic discrepancy and consistency."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from situs.backbones.base import Backbone
from situs.methods.base import Batch, Losses, Nets, Network, StepScore
from situs.methods.projection import pooled
from situs.methods.s2dc.config import NORMAL_AXIS, S2dcConfig
from situs.methods.s2dc.heads import S2dcHeads
from situs.methods.s2dc.losses import consistency, discrepancy, info_nce
from situs.methods.s2dc.observation import ObservedS2dc
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
from situs.views.source import Source


class S2dc(ObservedS2dc):
    """Find every place of a region again in its moved copy (arXiv 2507.02581)."""

    name = "s2dc"
    title = "Matching a region with its moved copy"
    paper = (
        "Pan et al., Structure-aware Semantic Discrepancy and Consistency for 3D Medical Image "
        "Self-supervised Learning, ICCV 2025 (arXiv 2507.02581)"
    )
    uses_teacher = True
    uses_position = True
    remedy = (
        "lower temperature, raise weights.p2p against weights.p2s, or train on more crops at once"
    )
    formulas: ClassVar[dict[str, str]] = {
        "p2p": "−mean log P on matches − mean log(1 − P) on the rest;  "
        "P: transport plan of S = q·k with a dustbin",
        "p2s": "−Σ w log M on matches − mean log(1 − M) on the rest;  "
        "M = (1 + S) / 2,  w = softmax((max − mean) / std)",
        "global": "−log softmax(q·k / τ) of a crop and its augmented copy, among crops and queue",
    }
    shows = "crop_size"
    Config = S2dcConfig

    def sample(self, scan: Source, rng: np.random.Generator) -> Batch:
        """A region and its moved copy; see :func:`~situs.methods.s2dc.views.sample_region`."""
        return sample_region(scan, self.config, rng)

    def heads(self, backbone: Backbone) -> S2dcHeads:
        """Projections for the chosen stage and for crops, dustbin, queue.

        Raises:
            ConfigError: If the stage does not exist.
        """
        stage = token_stage(self.config, backbone)
        warn_of_tokens(self.config, backbone)
        return S2dcHeads(backbone.channels[stage], backbone.channels[-1], self.config)

    def losses(self, batch: Batch, nets: Nets, generator: torch.Generator) -> Losses:
        """The student encodes the region, the teacher the moved copy; all terms."""
        student, teacher = nets.student, nets.teacher or nets.student
        near = encode_region(self.config, batch["source"], student)
        terms: dict[str, Tensor] = {}
        scores: dict[str, StepScore] = {}
        if self.wants("p2p", "p2s"):
            with torch.no_grad():
                far = encode_region(self.config, batch["moved"], teacher)
            problem = correspondence(self.config, batch, student.backbone)
            terms, scores = self._matching(near, far, problem, student)
        if self.wants("global"):
            terms["global"] = self._global(batch, near, student, teacher)
        return Losses(terms, scores)

    def _global(self, batch: Batch, near: Encoded, student: Network, teacher: Network) -> Tensor:
        """Each chosen crop against the teacher's copy of it, other copies and the queue."""
        config, heads = self.config, student.heads
        views, chosen = batch["augmented"], batch["augmented_crop"]
        rows = torch.arange(len(chosen), device=chosen.device)[:, None]
        if config.queue_of == "unmoved":
            views = torch.cat([views, batch["source"][rows, chosen]], dim=1)
        with torch.no_grad():
            features = pooled(encode_crops(views.flatten(0, 1), teacher.backbone))
            projected = teacher.heads.crops(features).unflatten(0, views.shape[:2])
        keys, kept = projected[:, : chosen.shape[1]], projected[:, -chosen.shape[1] :]
        # All crops of the region go through the head, so that batch statistics are of more
        # than the few that are asked for.
        queries = heads.crops(near.crops)[rows, chosen]
        negatives, stored = heads.queue.slots()
        term = info_nce(
            queries.flatten(0, 1),
            keys.flatten(0, 1),
            negatives,
            config.global_temperature,
            config.global_unit,
            stored,
        )
        if student.training:
            heads.queue.push(kept.flatten(0, 1))
        return term

    def _matching(
        self, near: Encoded, far: Encoded, problem: Problem, student: Network
    ) -> tuple[dict[str, Tensor], dict[str, StepScore]]:
        grid = token_grid(self.config, student.backbone)
        axis = NORMAL_AXIS[self.config.motion.plane] if self.config.per_slice else None
        q, k = (slice_tokens(e.tokens, grid, axis) for e in (near, far))
        matches, valid = (slice_pairs(p, grid, axis) for p in problem)
        with torch.autocast(q.device.type, enabled=False):
            similarity = q @ k.mT
            terms = {}
            if self.wants("p2p"):
                plan = log_sinkhorn(
                    torch.where(valid, similarity / self.config.temperature, -torch.inf),
                    student.heads.dustbin,
                    self.config.iterations,
                    self.config.tolerance,
                )
                terms["p2p"] = discrepancy(plan, matches, valid)
            if self.wants("p2s"):
                terms["p2s"] = consistency(similarity, matches, valid)
        right = 100 * top1_accuracy(similarity.detach(), matches, valid)
        return terms, {"match_accuracy": StepScore(right, "%", "higher")}
