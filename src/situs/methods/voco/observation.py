"""What ``voco`` shows: predicted overlaps beside true ones, and the places they mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from situs.methods.base import Batch
from situs.methods.monitors import collapse_warnings, effective_rank, feature_variance
from situs.methods.voco.config import VocoConfig
from situs.observation import (
    ArrowsPanel,
    MatrixPanel,
    Observation,
    Panel,
    ScatterPanel,
    Score,
    Section,
    Volume,
)
from situs.views.source import Source

_SHOWN = 2


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


def observe(
    predicted: Tensor,
    features: Tensor,
    batch: Batch,
    sources: Sequence[Source],
    config: VocoConfig,
    step: int,
) -> Observation:
    """Scores and pictures of one batch.

    Args:
        predicted: ``(B, R, K)``.
        features: ``(N, D)`` pooled features of all crops, for the monitors.
        batch: What was sampled.
        sources: The scan behind each sample.
        config: The method's.
        step: Optimiser steps done.
    """
    predicted, overlap = predicted.float().cpu(), batch["overlap"].float().cpu()
    starts = batch["start"].float().cpu()
    count = overlap.shape[-1]
    bases, crops = starts[:, :count], starts[:, count:]
    found = centre_from_overlap(predicted, bases)
    middle = bases.mean(1, keepdim=True)
    spacing = torch.tensor([s.spacing for s in sources])[:, None]
    variance, rank = float(feature_variance(features)), float(effective_rank(features))
    explanation = (
        f"A region is tiled by {count} base crops of {_times(config.crop_size)} voxels. For each "
        "random crop the network says how much of it lies in each base crop; the average of the "
        "base places with these weights is where it puts the crop."
    )
    section = Section(
        title="Overlap with base crops",
        explanation=explanation,
        scores=(
            *_overlap_scores(predicted, overlap),
            _position_score((found - crops) * spacing, (middle - crops) * spacing),
            Score(
                "feature_rank",
                rank,
                "",
                "higher",
                collapsed=1.0,
                label=f"directions used by the features of {len(features)} crops",
            ),
        ),
        panels=(
            ScatterPanel(
                title="Overlap, predicted against true",
                caption="One point a crop and base crop.",
                predicted=predicted.flatten().numpy(),
                true=overlap.flatten().numpy(),
                unit="",
                quantity="share of the crop",
            ),
            *(
                panel
                for b in range(min(_SHOWN, len(sources)))
                for panel in _panels(b, predicted, overlap, found, starts, sources[b], config)
            ),
        ),
    )
    remedy = "raise weights.regularization, or use larger crops so that bases differ more"
    return Observation(
        method="voco",
        step=step,
        sections=(section,),
        warnings=collapse_warnings(variance, rank, remedy),
        scans=tuple(s.key for s in sources),
        modalities=tuple(s.modality for s in sources),
        spacings=tuple(s.spacing for s in sources),
    )


def _overlap_scores(predicted: Tensor, overlap: Tensor) -> tuple[Score, ...]:
    mean = overlap.mean()
    error = (predicted - overlap).abs().mean((1, 2))
    # Guessing: the same predictions, given to any crop and base.
    guessed = (predicted.flatten()[:, None] - overlap.flatten()).abs().mean()
    spread = (overlap - mean).square().sum()
    r2 = 1 - (predicted - overlap).square().sum() / spread.clamp_min(1e-12)
    right = (predicted.argmax(-1) == overlap.argmax(-1)).float().mean(1)
    return (
        Score(
            "overlap_mae",
            float(error.mean()),
            "",
            "lower",
            chance=float(guessed),
            constant=float((overlap - mean).abs().mean()),
            label="error of the overlap, as a share of the crop",
            samples=tuple(error.tolist()),
        ),
        Score(
            "overlap_r2",
            float(r2),
            "",
            "higher",
            chance=0.0,
            constant=0.0,
            label="overlap explained (R²)",
        ),
        Score(
            "base_accuracy",
            100 * float(right.mean()),
            "%",
            "higher",
            chance=100 / overlap.shape[-1],
            label="crops assigned to the base crop they overlap most",
            samples=tuple((100 * right).tolist()),
        ),
    )


def _position_score(difference_mm: Tensor, trivial_mm: Tensor) -> Score:
    distance = difference_mm.norm(dim=-1).mean(1)
    return Score(
        "position_error",
        float(distance.mean()),
        "mm",
        "lower",
        constant=float(trivial_mm.norm(dim=-1).mean()),
        label="distance between where the crop is put and where it is",
        samples=tuple(distance.tolist()),
    )


def _panels(
    b: int,
    predicted: Tensor,
    overlap: Tensor,
    found: Tensor,
    starts: Tensor,
    source: Source,
    config: VocoConfig,
) -> tuple[Panel, Panel]:
    count = overlap.shape[-1]
    half = (np.asarray(config.crop_size) - 1) / 2
    array = source.read((0, 0, 0), source.shape)[0]
    bases, crops = starts[b, :count].numpy(), starts[b, count:].numpy()
    middle = np.broadcast_to(bases.mean(0) + half, crops.shape)
    size = np.broadcast_to(np.asarray(config.crop_size, dtype=float), bases.shape)
    return (
        MatrixPanel(
            title=f"Overlaps in {source.key}",
            caption="Rows are random crops, columns base crops.",
            predicted=predicted[b].numpy(),
            true=overlap[b].numpy(),
            unit="",
        ),
        ArrowsPanel(
            title=f"Where crops of {source.key} are put",
            caption=(
                "From the region's middle, where a crop would be put without looking, to where "
                "the network puts it and to where it is. Boxes are the base crops."
            ),
            volume=Volume(array, source.affine, source.key),
            start_vox=np.array(middle),
            predicted_vox=found[b].numpy() + half,
            true_vox=crops + half,
            boxes_vox=np.stack([bases, size], axis=1),
            names=tuple(f"crop {r}" for r in range(len(crops))),
        ),
    )


def _times(size: Sequence[int]) -> str:
    return "×".join(str(s) for s in size)
