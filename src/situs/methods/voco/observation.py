"""What ``voco`` shows: predicted overlaps beside true ones, and the places they mean.

Overlaps are the paper's answer (arXiv 2402.17300); the place that they mean, and both errors, are
ours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from situs.methods.base import Method, Nets, Samples, Scores
from situs.methods.measured import Measured
from situs.methods.preview import whole_scan
from situs.methods.voco.config import VocoConfig
from situs.observation import ArrowsPanel, MatrixPanel, ScatterPanel, Section
from situs.text import times

_SHOWN = 2


class Predicted(NamedTuple):
    """Overlaps ``(B, R, K)`` on the CPU, and features ``(N, D)`` of all crops."""

    overlap: Tensor
    features: Tensor


class ObservedVoco(Method):
    """What is asked of ``voco`` on held-out samples."""

    monitor = "overlap_mae"
    config: VocoConfig

    def measure(self, samples: Samples, predicted: Predicted) -> list[Measured]:
        """Predicted beside true overlaps, and where the crops would lie by them."""
        found, overlap = predicted.overlap, samples.batch["overlap"].float().cpu()
        mean = overlap.mean()
        spread = (overlap - mean).square().sum()
        # Guessing: the same predictions, given to any crop and base.
        guessed = (found.flatten()[:, None] - overlap.flatten()).abs().mean()
        bases, crops = _starts(samples)
        spacing = torch.tensor([s.spacing for s in samples.scans])[:, None]
        middle = bases.mean(1, keepdim=True)
        return [
            Measured(
                "overlap_mae",
                (found - overlap).abs(),
                "",
                "lower",
                "error of the overlap, as a share of the crop",
                chance=guessed,
                constant=(overlap - mean).abs().mean(),
            ),
            Measured(
                "overlap_r2",
                None,
                "",
                "higher",
                "overlap explained (R²)",
                chance=0.0,
                constant=0.0,
                value=1 - (found - overlap).square().sum() / spread.clamp_min(1e-12),
            ),
            Measured(
                "base_accuracy",
                100 * (found.argmax(-1) == overlap.argmax(-1)).float(),
                "%",
                "higher",
                "crops assigned to the base crop they overlap most",
                chance=100 / overlap.shape[-1],
            ),
            Measured(
                "position_error",
                ((centre_from_overlap(found, bases) - crops) * spacing).norm(dim=-1),
                "mm",
                "lower",
                "distance between where the crop is put and where it is",
                constant=((middle - crops) * spacing).norm(dim=-1).mean(),
            ),
        ]

    def sections(
        self, samples: Samples, predicted: Predicted, nets: Nets, scores: Scores
    ) -> list[Section]:
        """Overlaps of all samples, and places in a few."""
        overlap = samples.batch["overlap"].float().cpu()
        explanation = (
            f"A region is tiled by {overlap.shape[-1]} base crops of "
            f"{times(self.config.crop_size)} voxels. For each random crop the network says how "
            "much of it lies in each base crop; the average of the base places with these weights "
            "is where it puts the crop."
        )
        scatter = ScatterPanel(
            title="Overlap, predicted against true",
            caption="One point a crop and base crop.",
            predicted=predicted.overlap.flatten().numpy(),
            true=overlap.flatten().numpy(),
            unit="",
            quantity="share of the crop",
        )
        shown = (
            panel
            for b, source in enumerate(samples.scans[:_SHOWN])
            for panel in (
                MatrixPanel(
                    title=f"Overlaps in {source.key}",
                    caption="Rows are random crops, columns base crops.",
                    predicted=predicted.overlap[b].numpy(),
                    true=overlap[b].numpy(),
                    unit="",
                ),
                self._arrows(b, predicted.overlap, samples),
            )
        )
        return [Section("Overlap with base crops", explanation, panels=(scatter, *shown))]

    def _arrows(self, b: int, overlap: Tensor, samples: Samples) -> ArrowsPanel:
        source = samples.scans[b]
        scan, size = whole_scan(source), np.asarray(self.config.crop_size, dtype=float)
        bases, crops = (starts[b : b + 1] for starts in _starts(samples))
        found = centre_from_overlap(overlap[b : b + 1], bases)[0].numpy()
        base, crop, half = bases[0].numpy(), crops[0].numpy(), (size - 1) / 2
        return ArrowsPanel(
            title=f"Where crops of {source.key} are put",
            caption=(
                "From the region's middle, where a crop would be put without looking, to where "
                "the network puts it and to where it is. Boxes are the base crops."
            ),
            volume=scan.volume,
            start_vox=scan.points(np.broadcast_to(base.mean(0) + half, crop.shape)),
            predicted_vox=scan.points(found + half),
            true_vox=scan.points(crop + half),
            boxes_vox=scan.sizes(np.stack([base, np.broadcast_to(size, base.shape)], axis=1)),
            names=tuple(f"crop {r}" for r in range(len(crop))),
        )


def centre_from_overlap(overlap: Tensor, base_starts_vox: Tensor) -> Tensor:
    """Place of a crop as the average of base places weighted with its overlaps.

    Exact for true overlaps of crops inside the region, because overlap is trilinear in place.

    Args:
        overlap: ``(B, R, K)``, not negative.
        base_starts_vox: ``(B, K, 3)`` first voxels.

    Returns:
        ``(B, R, 3)`` first voxels; the region's middle where nothing overlaps.
    """
    uniform = torch.full_like(overlap, 1 / overlap.shape[-1])
    total = overlap.sum(-1, keepdim=True)
    share = torch.where(total > 1e-6, overlap / total.clamp_min(1e-6), uniform)
    return share @ base_starts_vox.to(overlap.dtype)


def _starts(samples: Samples) -> tuple[Tensor, Tensor]:
    """First voxels of the base crops ``(B, K, 3)`` and of the random ones ``(B, R, 3)``."""
    starts, count = samples.batch["start"].float().cpu(), samples.batch["overlap"].shape[-1]
    return starts[:, :count], starts[:, count:]
