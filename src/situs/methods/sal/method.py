"""Local alignment and global position as a :class:`~situs.methods.base.Method`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.methods.base import Batch, Method, MethodConfig, Network, StepResult
from situs.methods.sal import losses
from situs.methods.sal.config import SalConfig, Term
from situs.methods.sal.heads import SalHeads, embed
from situs.methods.sal.observation import observe
from situs.methods.sal.registration import alignment_in_patient
from situs.methods.sal.views import sample_pairs
from situs.observation import Observation
from situs.views.slices import fitted_grid
from situs.views.source import Source


class Sal(Method):
    """Near slices match position by position; slices know their place in the scan."""

    name: ClassVar[str] = "sal"
    title: ClassVar[str] = "Local alignment and global position of slices"
    paper: ClassVar[str] = "arXiv 2406.15699"
    spatial_dims = 2
    trains_decoder = True
    uses_position: ClassVar[bool] = True
    monitor: ClassVar[str] = "match_distance"
    formulas: ClassVar[dict[str, str]] = {
        "local": "mean |1 − max_q cos(x_i[p], x_j[q])| over positions p, both directions; "
        "with a window, q within it",
        "global": "contrast: −mean over positives log softmax(z·z′/τ), positives where "
        "|position − position′| < threshold; regress: SmoothL1(predicted, true position)",
        "spread": "1 + ¼ log mean exp(−2‖u_p − u_q‖²) over positions p ≠ q of one slice (ours)",
    }
    Config: ClassVar[type[MethodConfig]] = SalConfig
    config: SalConfig

    def resolve_for_data(self, sources: Sequence[Source]) -> Self:
        """Fill the size and spacing of the views from the scans."""
        grid = fitted_grid(sources)
        filled = {
            "size": self.config.size or grid.size,
            "spacing_mm": self.config.spacing_mm or grid.spacing_mm,
        }
        return type(self)(self.config.model_copy(update=filled))

    def sample(self, item: Sequence[Source], rng: np.random.Generator) -> Batch:
        """Pairs of one scan; see :func:`~situs.methods.sal.views.sample_pairs`."""
        method = (
            self if self.config.size and self.config.spacing_mm else self.resolve_for_data(item)
        )
        return sample_pairs(item[0], method.config, rng)

    def build_heads(self, backbone: Backbone) -> nn.Module:
        """Embeddings of positions and of slices."""
        if self.config.size:
            backbone.check_size(self.config.size)
        return SalHeads(backbone, self.config)

    def step(
        self,
        batch: Batch,
        student: Network,
        teacher: Network | None,
        generator: torch.Generator,
    ) -> StepResult:
        """All slices in one pass; pairs aligned, slices of the whole batch placed."""
        out = embed(student, batch["slices"].flatten(0, 2))
        terms: dict[Term, Tensor] = {}
        pairs = out.positions.unflatten(0, (-1, 2))
        if self.config.weight("local"):
            terms["local"] = self._aligned(pairs, batch)
        if self.config.weight("spread"):
            terms["spread"] = losses.spread(out.positions)
        if self.config.weight("global"):
            terms["global"] = self._placed(out.slices, batch)
        total = sum(self.config.weight(name) * term for name, term in terms.items())
        return StepResult({**{str(k): v for k, v in terms.items()}, "total": cast(Tensor, total)})

    def _aligned(self, pairs: Tensor, batch: Batch) -> Tensor:
        first, second = pairs.unbind(1)
        window = self.config.window
        if window is None or self.config.frame == "image":
            return losses.local_alignment(first, second, window)
        rows, columns = batch["slices"].shape[-2:]
        return alignment_in_patient(first, second, batch, (rows, columns), window)

    def _placed(self, slices: Tensor, batch: Batch) -> Tensor:
        positions, axes = batch["position"].flatten(), batch["axis"].flatten()
        if self.config.position == "regress":
            return losses.position_regression(slices, positions, axes)
        return losses.position_contrast(
            slices, positions, axes, self.config.position_threshold, self.config.temperature
        )

    def observe(
        self,
        batch: Batch,
        student: Network,
        teacher: Network | None,
        items: Sequence[Sequence[Source]],
        step: int,
    ) -> Observation:
        """Matched positions and places along the scan, on held-out slices."""
        out = embed(student, batch["slices"].flatten(0, 2))
        return observe(self.config, out, batch, student, [item[0] for item in items], step)
