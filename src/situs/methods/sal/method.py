"""Local alignment and global position as a :class:`~situs.methods.base.Method`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.methods.base import Batch, Losses, Nets
from situs.methods.precision import at_least_single
from situs.methods.sal import losses, pixels
from situs.methods.sal.config import SalConfig
from situs.methods.sal.heads import Embedded, SalHeads, embed
from situs.methods.sal.observation import ObservedSal
from situs.methods.sal.registration import alignment_in_patient
from situs.methods.sal.views import fitted_disc, sample_pairs
from situs.methods.slopes import unit
from situs.views.scan_grid import stack_axes
from situs.views.source import Source

_SHORT_STACK = 20  # slices: short-axis stacks have about ten


class Sal(ObservedSal):
    """Near slices match position by position; slices know their place in the scan."""

    name = "sal"
    title = "Local alignment and global position of slices"
    paper = "arXiv 2406.15699"
    spatial_dims = 2
    uses_position = True
    remedy = (
        "raise weights.spread, weights.global or the batch size; 'local' alone is solved by a "
        "constant"
    )
    formulas: ClassVar[dict[str, str]] = {
        "local": "mean |1 − max_q cos(x_i[p], x_j[q])| over positions p, both directions; "
        "with a window, q within it",
        "global": "contrast: −mean over positives log softmax(z·z′/τ), positives where "
        "|position − position′| < threshold; regress: SmoothL1(predicted, true position)",
        "pixel": "mean ‖(c_i(x) − x) − mean_y(c_j(y) − y)‖ / u over pixels x, y that the slices i "
        "≠ j of a scan show (ours)",
        "spread": "1 + ¼ log mean exp(−2‖u_p − u_q‖²) over positions p ≠ q of one slice (ours)",
    }
    shows = "size"
    Config = SalConfig

    def __init__(self, config: SalConfig) -> None:
        super().__init__(config)
        self.matches = self.wants("local", "spread")
        self.monitor = "match_distance" if self.matches else "position_error"
        self.places = self.wants("pixel")
        self.trains_decoder = self.places or (self.matches and config.features == "decoder")

    def resolve_for_data(self, sources: Sequence[Source]) -> Self:
        """Fill what is shown, the views' size and spacing, and the threshold from the scans."""
        config = self.config
        shown = config.shown or ("inside" if self.matches or self.places else "all")
        disc = fitted_disc(sources, config) if shown == "inside" else None
        axes = [config.axes or stack_axes(source) for source in sources]
        slices = [s.shape[axis] for s, of in zip(sources, axes, strict=True) for axis in of]
        short = float(np.median(slices)) <= _SHORT_STACK
        threshold = config.position_threshold or (0.35 if short else 0.1)
        filled = {"shown": shown, "shown_mm": disc, "position_threshold": threshold}
        return type(self)(config.filled(sources, disc, **filled))

    def sample(self, scan: Source, rng: np.random.Generator) -> Batch:
        """Pairs of one scan; see :func:`~situs.methods.sal.views.sample_pairs`."""
        method = self if self.config.known else self.resolve_for_data([scan])
        return sample_pairs(scan, method.config, rng)

    def heads(self, backbone: Backbone) -> nn.Module:
        """Embeddings of positions and of slices."""
        return SalHeads(backbone, self.config)

    def losses(self, batch: Batch, nets: Nets, generator: torch.Generator) -> Losses:
        """All slices in one pass; pairs aligned, slices of the whole batch placed."""
        out = self.predict(batch, nets)
        terms = (
            {} if out.positions is None else self._matched(at_least_single(out.positions), batch)
        )
        if self.wants("global"):
            terms["global"] = self._placed(out.slices, batch)
        if out.places is not None:
            terms["pixel"] = pixels.pixel(out.places, batch, self.config.unit_mm)
        return Losses(terms)

    def _matched(self, positions: Tensor, batch: Batch) -> dict[str, Tensor]:
        directions = unit(positions, 1)
        terms: dict[str, Tensor] = {}
        if self.wants("local"):
            terms["local"] = self._aligned(positions, directions, batch)
        if self.wants("spread"):
            terms["spread"] = losses.crowding(directions)
        return terms

    def _aligned(self, positions: Tensor, directions: Tensor, batch: Batch) -> Tensor:
        window = self.config.window
        if window is None or self.config.frame == "image":
            return losses.aligned(directions.unflatten(0, (-1, 2)), window)
        return alignment_in_patient(positions.unflatten(0, (-1, 2)), batch, window)

    def _placed(self, slices: Tensor, batch: Batch) -> Tensor:
        positions, axes = batch["position"].flatten(), batch["axis"].flatten()
        if self.config.position == "regress":
            return losses.position_regression(slices, positions, axes)
        scans = len(batch["axis"])
        scan, pair = _kin(scans, len(axes) // scans, axes.device)
        return losses.position_contrast(
            slices,
            positions,
            axes,
            self.config.threshold,
            self.config.temperature,
            # Neighbours that lie farther apart are a pair of `local` all the same.
            self._near(batch["slice_mm"].flatten()).logical_or_(pair).logical_and_(scan),
            self.config.hardness,
            scan,
        )

    def _near(self, slice_mm: Tensor) -> Tensor:
        """``(N, N)``, which slices lie within ``max_distance_mm``, were they of one scan."""
        depth = slice_mm[:, None]
        return torch.cdist(depth, depth, p=1) <= self.config.max_distance_mm

    def predict(self, batch: Batch, nets: Nets) -> Embedded:
        """Embeddings of all positions and slices."""
        return embed(nets.student, batch["slices"].flatten(0, 2), self.matches, self.places)


@lru_cache(maxsize=16)
def _kin(scans: int, slices: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """``(N, N)`` each, which of ``slices`` slices of each scan are of one scan, and of one pair."""
    with torch.inference_mode(False):
        index = torch.arange(scans * slices)
        scan, pair = index // slices, index // 2
        return (scan[:, None] == scan).to(device), (pair[:, None] == pair).to(device)
