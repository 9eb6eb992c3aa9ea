"""The method ``spatial``: gap matrix, adjacent and distant chunks, vectors and routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from situs.backbones.base import Backbone
from situs.geometry import gap_matrix
from situs.methods.base import Batch, Losses, Nets, Network, StepScore
from situs.methods.distributed import share, size
from situs.methods.spatial import losses
from situs.methods.spatial.chunks import chunk_starts, cut_chunks
from situs.methods.spatial.config import SpatialConfig
from situs.methods.spatial.heads import Encoded, SpatialHeads, encode
from situs.methods.spatial.observation import ObservedSpatial
from situs.methods.spatial.views import gap_spread_mm, sample_views
from situs.methods.spatial.voxels import voxel_errors
from situs.tensors import placed
from situs.views.source import Source


class Roles(NamedTuple):
    """Which view goes through which network.

    ``student (M,)`` and ``teacher (T,)`` are views; ``others (M, V−1)`` are positions in
    ``teacher`` of the views that each main view is compared with.
    """

    student: Tensor
    teacher: Tensor
    others: Tensor


def roles(views: int, symmetric: bool, device: torch.device | None = None) -> Roles:
    """The main view is view 0, or every view in turn when ``symmetric``."""
    every = torch.arange(views, device=device)
    if not symmetric:
        return Roles(every[:1], every[1:], every[None, :-1])
    return Roles(every, every, (every[:, None] + every[1:]) % views)


class Spatial(ObservedSpatial):
    """Learn where sub-volumes of one scan lie relative to each other (arXiv 2509.05967)."""

    name = "spatial"
    title = "Gaps, chunks, vectors and routes between sub-volumes"
    paper = "arXiv 2509.05967"
    trains_decoder = True
    uses_teacher = True
    uses_position = True
    remedy = "raise weights.gap_axis against the chunk terms, or lower the learning rate"
    formulas: ClassVar[dict[str, str]] = {
        "gap_axis": "MSE(ĝ, g),  ĝᵢⱼ = W(vⱼ − vᵢ)",
        "gap_norm": "MSE(‖ĝ‖, ‖g‖)",
        "chunk_adjacent": "−cos(chunk of i towards j, chunk of j towards i)",
        "chunk_distant": "+cos(chunk of i away from j, chunk of j away from i)",
        "vector": "SmoothL1(d, g)",
        "route": "SmoothL1(Σ d along a route, Σ g along it), every start, every order",
        "cycle": "‖dᵢⱼ + dⱼₖ + dₖᵢ‖²  (pairwise head only)",
        "antisymmetry": "‖dᵢⱼ + dⱼᵢ‖²  (pairwise head only)",
        "voxel": "SmoothL1(qⱼ(o) − qᵢ(o), g),  q(o) from F about o, every voxel o of a view",
    }
    shows = "view_size"
    Config = SpatialConfig

    @property
    def lower_bound(self) -> float:
        """Both chunk terms are cosines, down to −1; all others are at least 0."""
        return -(self.config.weight("chunk_adjacent") + self.config.weight("chunk_distant"))

    def resolve_for_data(self, sources: Sequence[Source]) -> Self:
        """Fill ``length_mm`` from the spread of gaps that the scans give."""
        if self.config.length_mm is not None:
            return self
        length = gap_spread_mm(list(sources), self.config)
        return type(self)(self.config.model_copy(update={"length_mm": length}))

    def sample(self, scan: Source, rng: np.random.Generator) -> Batch:
        """V views of one scan; see :func:`~situs.methods.spatial.views.sample_views`."""
        return sample_views(scan, self.config, rng)

    def heads(self, backbone: Backbone) -> SpatialHeads:
        """View vectors, gaps, chunk vectors, and the chosen vector head."""
        return SpatialHeads(backbone.decoder_channels, backbone.channels[-1], self.config)

    def losses(self, batch: Batch, nets: Nets, generator: torch.Generator) -> Losses:
        """One view through the student, the others through its average; all terms."""
        student, teacher = nets
        assert teacher is not None
        views, centers_mm = batch["views"], batch["centers_mm"]
        count = views.shape[1]
        if not self.config.symmetric:
            # A main view drawn anew for each sample: roll it to the front.
            main = share(torch.randint(count, (size() * len(views), 1), generator=generator))
            order = placed((main + torch.arange(count)) % count, views.device)
            rows = torch.arange(len(views), device=views.device)[:, None]
            views, centers_mm = views[rows, order], centers_mm[rows, order]
        role = roles(count, self.config.symmetric, views.device)
        # The teacher first, while the student has kept nothing yet for its gradient.
        with torch.no_grad():
            far = encode(teacher, views[:, role.teacher].flatten(0, 1))
        near = encode(student, views[:, role.student].flatten(0, 1))
        return self._terms(near, far, nets, role, centers_mm, batch["spacing_mm"])

    def _terms(
        self,
        near: Encoded,
        far: Encoded,
        nets: Nets,
        role: Roles,
        centers_mm: Tensor,
        spacing_mm: Tensor,
    ) -> Losses:
        batch = len(centers_mm)
        heads: SpatialHeads = nets.student.heads
        mains = near.vectors.reshape(batch, -1, 1, near.vectors.shape[-1])
        others = far.vectors.reshape(batch, len(role.teacher), -1)[:, role.others]
        vectors = torch.cat([mains, others], dim=2)  # (B, M, V, D), main view first
        centers = torch.cat(
            [centers_mm[:, role.student, None], centers_mm[:, role.teacher][:, role.others]], dim=2
        )
        gaps_mm = gap_matrix(centers)
        length = self.length(gaps_mm)
        true = gaps_mm / length

        terms: dict[str, Tensor] = {}
        scores: dict[str, StepScore] = {}
        if self.wants("gap_axis", "gap_norm"):
            gaps = heads.gaps(vectors).float()
            terms["gap_axis"] = losses.gap_axis(gaps, true, self.config.gap_diagonal)
            terms["gap_norm"] = losses.gap_norm(gaps, true)
            miss = losses.off_diagonal((gaps.detach() - true) * length)
            scores["gap_error"] = StepScore(miss.norm(dim=-1).mean(), "mm", "lower")
        if self.wants("chunk_adjacent", "chunk_distant"):
            gaps_vox = gaps_mm / spacing_mm[:, None, None, None]
            towards, away = self._chunk_pairs(near, far, nets, role, gaps_vox)
            terms["chunk_adjacent"] = losses.chunk_adjacent(*towards)
            terms["chunk_distant"] = losses.chunk_distant(*away)
        pairwise = self.config.head == "pairwise"
        if self.wants("vector", "route") or pairwise:
            steps = heads.steps(vectors).float()
            terms["vector"] = losses.vector(steps, true)
            terms["route"] = losses.route(steps, true)
            if pairwise:
                terms["cycle"] = losses.cycle(steps)
                terms["antisymmetry"] = losses.antisymmetry(steps)
        if self.wants("voxel"):
            places = heads.places(near.dense).unflatten(0, (batch, -1))[:, :, None]
            others = heads.places(far.dense).unflatten(0, (batch, -1))[:, role.others]
            terms["voxel"] = losses.voxel(places, others, true[:, :, 0, 1:])
            miss = voxel_errors((others - places).detach(), gaps_mm[:, :, 0, 1:], length)
            scores["voxel_error"] = StepScore(miss.mean(), "mm", "lower")
        return Losses({name: term for name, term in terms.items() if self.wants(name)}, scores)

    def _chunk_pairs(
        self, near: Encoded, far: Encoded, nets: Nets, role: Roles, gaps_vox: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Embeddings ``(N, D)`` of the adjacent and of the distant chunk pairs.

        Args:
            near: Main views, from the student.
            far: The others, from the teacher.
            nets: Their heads embed the chunks.
            role: Which view went where.
            gaps_vox: ``(B, M, V, V, 3)``, the main view first.
        """
        student, teacher = nets
        assert teacher is not None
        theirs = student if self.config.chunk_head == "student" else teacher
        size = self.config.chunk_size
        device, batch, mains = gaps_vox.device, *gaps_vox.shape[:2]
        rows = torch.arange(batch, device=device)[:, None, None]
        main = rows * mains + torch.arange(mains, device=device)[:, None]
        others = rows * len(role.teacher) + role.others  # (B, M, V − 1)

        def embed(network: Network, encoded: Encoded, which: Tensor, corner: Tensor) -> Tensor:
            chunks = cut_chunks(encoded.dense, which.flatten(), corner.reshape(-1, 3), size)
            return network.heads.chunk_vector(chunks).float()

        starts = chunk_starts(gaps_vox[:, :, 0, 1:], self.config.view_size, size).unbind(-2)
        with torch.set_grad_enabled(theirs is student and torch.is_grad_enabled()):
            answers = [embed(theirs, far, others, starts[corner]) for corner in (1, 3)]
        asked = [embed(student, near, main.expand_as(others), starts[corner]) for corner in (0, 2)]
        if self.config.chunk_pairs == "all" and others.shape[-1] > 1:
            i, j = torch.triu_indices(*(others.shape[-1],) * 2, offset=1, device=device)
            apart = gaps_vox[:, :, i + 1, j + 1]
            starts = chunk_starts(apart, self.config.view_size, size).unbind(-2)
            for kind in range(2):
                first = embed(theirs, far, others[..., i], starts[2 * kind])
                second = embed(theirs, far, others[..., j], starts[2 * kind + 1])
                asked[kind] = torch.cat([asked[kind], first])
                answers[kind] = torch.cat([answers[kind], second])
        return (asked[0], answers[0]), (asked[1], answers[1])
