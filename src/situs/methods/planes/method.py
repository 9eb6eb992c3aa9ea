"""Line heat maps and slice location as a :class:`~situs.methods.base.Method`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.catalog.studies import by_role, load_rules
from situs.methods.base import Batch, Method, MethodConfig, Network, StepResult
from situs.methods.planes import losses
from situs.methods.planes.config import PlanesConfig, Term
from situs.methods.planes.frames import fitted_frames
from situs.methods.planes.heads import PlanesHeads, predict
from situs.methods.planes.observation import observe
from situs.methods.planes.views import sample_study
from situs.observation import Observation
from situs.views.slices import fitted_grid
from situs.views.source import Source


class Planes(Method):
    """Where do a study's other planes cut this slice, and where in its stack does it lie?"""

    name: ClassVar[str] = "planes"
    title: ClassVar[str] = "Intersecting lines and slice location of prescribed planes"
    paper: ClassVar[str] = "arXiv 2403.16499"
    spatial_dims = 2
    trains_decoder = True
    item = "study"
    uses_position: ClassVar[bool] = True
    monitor: ClassVar[str] = "line_distance"
    formulas: ClassVar[dict[str, str]] = {
        "line": "MSE(heat map, exp(−d²/2σ²)), d the distance of a pixel to the line in which "
        "another plane cuts the slice; missing and near-parallel planes masked",
        "location": "MSE(predicted, (z − z_first) / (z_last − z_first))",
    }
    Config: ClassVar[type[MethodConfig]] = PlanesConfig
    config: PlanesConfig

    def resolve_for_data(self, sources: Sequence[Source]) -> Self:
        """Decide between real and virtual studies; fill the views' size, spacing and frames."""
        grid, studies = fitted_grid(sources), studies_of(sources, self.config)
        frames = self.config.frames
        if frames is None and studies == "series":
            frames = fitted_frames(sources, load_rules(self.config.rules))
        filled = {
            "studies": studies,
            "frames": frames,
            "size": self.config.size or grid.size,
            "spacing_mm": self.config.spacing_mm or grid.spacing_mm,
        }
        return type(self)(self.config.model_copy(update=filled))

    def sample(self, item: Sequence[Source], rng: np.random.Generator) -> Batch:
        """Slices of one study; see :func:`~situs.methods.planes.views.sample_study`."""
        return sample_study(item, self.config, rng)

    def build_heads(self, backbone: Backbone) -> nn.Module:
        """One heat map a role, and the place."""
        if self.config.size:
            backbone.check_size(self.config.size)
        return PlanesHeads(backbone, len(self.config.roles))

    def step(
        self,
        batch: Batch,
        student: Network,
        teacher: Network | None,
        generator: torch.Generator,
    ) -> StepResult:
        """All slices of all studies in one pass."""
        out = predict(student, batch["images"].flatten(0, 1))
        terms: dict[Term, Tensor] = {}
        if self.config.weight("line"):
            lines, visible = batch["lines"].flatten(0, 1), batch["visible"].flatten(0, 1)
            terms["line"] = losses.line(out.heatmaps, lines, visible, self.config.sigma_px)
        if self.config.weight("location"):
            place, located = batch["location"].flatten(), batch["located"].flatten()
            terms["location"] = losses.location(out.location, place, located)
        total = sum(self.config.weight(name) * term for name, term in terms.items())
        return StepResult({**{str(k): v for k, v in terms.items()}, "total": cast(Tensor, total)})

    def observe(
        self,
        batch: Batch,
        student: Network,
        teacher: Network | None,
        items: Sequence[Sequence[Source]],
        step: int,
    ) -> Observation:
        """Fitted lines, places and planned planes beside the truth, on held-out studies."""
        out = predict(student, batch["images"].flatten(0, 1))
        scans = [
            [item[index] for index in indices]
            for item, indices in zip(items, batch["scan"].tolist(), strict=True)
        ]
        return observe(self.config, out, batch, student, scans, step)


def studies_of(sources: Sequence[Source], config: PlanesConfig) -> str:
    """``"series"`` where most studies have stacks of two roles or more, else ``"virtual"``."""
    if config.studies != "auto":
        return config.studies
    studies: dict[str, list[Source]] = {}
    for source in sources:
        studies.setdefault(source.study or source.key, []).append(source)
    rules = load_rules(config.rules)
    usable = sum(len(by_role(study, rules)) >= 2 for study in studies.values())
    return "series" if 2 * usable > len(studies) else "virtual"
