"""Line heat maps and slice location as a :class:`~situs.methods.base.Method`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.catalog.studies import by_role, load_rules
from situs.methods.base import Batch, Losses, Nets
from situs.methods.planes import losses
from situs.methods.planes.config import PlanesConfig
from situs.methods.planes.frames import by_study, fitted_frames
from situs.methods.planes.heads import PlanesHeads, predict
from situs.methods.planes.observation import ObservedPlanes
from situs.methods.planes.views import sample_study
from situs.views.planes_virtual import fitted_disc
from situs.views.source import Source

logger = logging.getLogger(__name__)


class Planes(ObservedPlanes):
    """Where do a study's other planes cross this slice, and where in its stack does it lie?"""

    name = "planes"
    title = "Intersecting lines and slice location of prescribed planes"
    paper = "arXiv 2403.16499"
    spatial_dims = 2
    trains_decoder = True
    item = "study"
    uses_position = True
    formulas: ClassVar[dict[str, str]] = {
        "line": "MSE(heat map, exp(−d²/2σ²)), d the distance of a pixel to the line in which "
        "another plane crosses the slice; missing and near-parallel planes masked",
        "location": "MSE(predicted, (z − z_first) / (z_last − z_first))",
    }
    shows = "size"
    Config = PlanesConfig

    def resolve_for_data(self, sources: Sequence[Source]) -> Self:
        """Decide between real and virtual studies; fill the views' size, spacing and frames."""
        studies, virtual = studies_of(sources, self.config), self.config.virtual
        if studies == "virtual":
            virtual = fitted_disc(sources, virtual)
        part_mm = 2 * virtual.radius_mm if virtual.radius_mm is not None else None
        frames = self.config.frames
        if frames is None and studies == "series":
            frames = fitted_frames(sources, load_rules(self.config.rules))
        filled = {"studies": studies, "frames": frames, "virtual": virtual}
        config = self.config.filled(sources, part_mm, **filled)
        sigma_mm = config.sigma * config.grid.spacing_mm
        return type(self)(config.model_copy(update={"sigma_mm": sigma_mm}))

    def sample_study(self, scans: Sequence[Source], rng: np.random.Generator) -> Batch:
        """Slices of one study; see :func:`~situs.methods.planes.views.sample_study`."""
        return sample_study(scans, self.config, rng)

    def heads(self, backbone: Backbone) -> nn.Module:
        """One heat map a role, and the place."""
        return PlanesHeads(backbone, len(self.config.roles), self.config.location_pool)

    def losses(self, batch: Batch, nets: Nets, generator: torch.Generator) -> Losses:
        """All slices of all studies in one pass."""
        out = predict(nets.student, batch["images"].flatten(0, 1))
        terms: dict[str, Tensor] = {}
        if self.wants("line"):
            lines, visible = batch["lines"].flatten(0, 1), batch["visible"].flatten(0, 1)
            terms["line"] = losses.line(out.heatmaps, lines, visible, self.config.sigma)
        if self.wants("location"):
            place, located = batch["location"].flatten(), batch["located"].flatten()
            terms["location"] = losses.location(out.location, place, located)
        return Losses(terms)


def studies_of(sources: Sequence[Source], config: PlanesConfig) -> str:
    """``"series"`` or ``"virtual"``; see :attr:`PlanesConfig.studies`. What was decided is told."""
    if config.studies != "auto":
        return config.studies
    rules, studies = load_rules(config.rules), by_study(sources)
    usable = sum(len(by_role(study, rules)) >= 2 for study in studies)
    named = "rules" in config.model_fields_set
    if usable and (named or 2 * usable > len(studies)):
        chosen, tell = "series", logger.info
    else:
        chosen, tell = "virtual", logger.warning if usable or named else logger.info
    tell(
        "%d of %d studies have stacks of two roles or more (%s): %s",
        usable, len(studies), config.rules, _CHOSEN[chosen],
    )  # fmt: skip
    return chosen


_CHOSEN = {
    "series": "real studies are looked at (studies=series)",
    "virtual": "virtual studies are cut out of all scans (studies=virtual)",
}
