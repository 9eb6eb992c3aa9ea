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
        student, teacher = nets
        assert teacher is not None
        matching, contrast = self.wants("p2p", "p2s"), self.wants("global")
        # The teacher looks first: what a pass needs for a moment would otherwise come on top of
        # all that the student's keeps for its gradient.
        with torch.no_grad():
            far = encode_region(self.config, batch["moved"], teacher) if matching else None
            keys = self._keys(batch, teacher) if contrast else None
        near = encode_region(self.config, batch["source"], student)
        terms: dict[str, Tensor] = {}
        scores: dict[str, StepScore] = {}
        if far is not None:
            problem = correspondence(self.config, batch, student.backbone)
            terms, scores = self._matching(near, far, problem, student)
        if keys is not None:
            terms["global"] = self._global(batch["augmented_crop"], near, keys, student)
        return Losses(terms, scores)

    def _keys(self, batch: Batch, teacher: Network) -> Tensor:
        """What the teacher makes of each chosen crop's copies, ``(B, copies, D)``."""
        views, chosen = batch["augmented"], batch["augmented_crop"]
        if self.config.queue_of == "unmoved":
            views = torch.cat([views, _chosen(batch["source"], chosen)], dim=1)
        features = pooled(encode_crops(views.flatten(0, 1), teacher.backbone))
        keys: Tensor = teacher.heads.crops(features).unflatten(0, views.shape[:2])
        return keys

    def _global(self, chosen: Tensor, near: Encoded, keys: Tensor, student: Network) -> Tensor:
        """Each chosen crop against the teacher's copy of it, other copies and the queue."""
        config, heads = self.config, student.heads
        copies, kept = keys[:, : chosen.shape[1]], keys[:, -chosen.shape[1] :]
        # All crops of the region go through the head, so that batch statistics are of more
        # than the few that are asked for.
        queries = _chosen(heads.crops(near.crops), chosen)
        negatives, stored = heads.queue.slots()
        term = info_nce(
            queries.flatten(0, 1),
            copies.flatten(0, 1),
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


def _chosen(of_crops: Tensor, chosen: Tensor) -> Tensor:
    """Rows ``chosen (B, n)`` of ``of_crops (B, V, …)``."""
    return of_crops[torch.arange(len(chosen), device=chosen.device)[:, None], chosen]
