"""What ``mae`` shows: the scan, what was hidden, what the network made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from situs.methods.base import Batch
from situs.methods.mae.config import MaeConfig
from situs.methods.mae.losses import block_statistics, denormalise, from_blocks, to_blocks
from situs.methods.mae.views import to_voxels
from situs.methods.monitors import collapse_warnings, effective_rank, feature_variance
from situs.observation import (
    ImagesPanel,
    Observation,
    OverlayPanel,
    Panel,
    Score,
    Section,
    Volume,
)
from situs.views.source import Source
from situs.views.subvolume import crop_affine

_SHOWN = 2


def observe(
    predicted: Tensor,
    features: Tensor,
    batch: Batch,
    sources: Sequence[Source],
    config: MaeConfig,
    step: int,
) -> Observation:
    """Scores and pictures of one batch.

    Args:
        predicted: ``(B, C, *spatial)`` in units of the (normalised) target.
        features: Coarsest features ``(B, D, *)``, for the monitors.
        batch: What was sampled.
        sources: The scan behind each sample.
        config: The method's.
        step: Optimiser steps done.
    """
    image, inside = batch["image"].float(), batch["inside"]
    hidden = to_voxels(batch["hidden"], image.shape[2:]) & inside[:, None]
    mean, _ = block_statistics(*_blocks(image, inside, config))
    flat = from_blocks(
        mean.expand(*mean.shape[:3], _voxels(config)), config.blocks, image.shape[2:]
    )
    rebuilt = predicted.float()
    if config.normalise:
        rebuilt = denormalise(rebuilt, image, inside, config.blocks)
    error, spread = _per_sample(rebuilt - image, hidden), _per_sample(flat - image, hidden)
    r2 = 1 - error / spread.clamp_min(1e-12)
    root, flat_root = error.sqrt(), spread.sqrt()
    pooled = features.flatten(2).mean(-1)
    variance, rank = float(feature_variance(pooled)), float(effective_rank(pooled))
    section = Section(
        title="Rebuilding hidden blocks",
        explanation=(
            f"{config.mask_ratio:.0%} of the blocks of {_times(config.blocks)} voxels are "
            "hidden; the network rebuilds them from what is left. The constant baseline knows "
            "each hidden block's mean and paints it flat."
        ),
        scores=(
            Score(
                "reconstruction_r2",
                float(r2.mean()),
                "",
                "higher",
                chance=0.0,
                constant=0.0,
                label="structure inside hidden blocks explained (R²)",
                samples=tuple(r2.tolist()),
            ),
            Score(
                "reconstruction_rmse",
                float(root.mean()),
                "",
                "lower",
                constant=float(flat_root.mean()),
                label="error on hidden voxels, in units of the normalised intensity",
                samples=tuple(root.tolist()),
            ),
            Score(
                "feature_rank",
                rank,
                "",
                "higher",
                collapsed=1.0,
                label=f"directions used by the features of {len(sources)} samples",
            ),
        ),
        panels=tuple(
            panel
            for b in range(min(_SHOWN, len(sources)))
            for panel in _panels(b, image, hidden, rebuilt, batch, sources[b])
        ),
    )
    remedy = "hide more (mask_ratio), use larger blocks, or lower the learning rate"
    return Observation(
        method="mae",
        step=step,
        sections=(section,),
        warnings=collapse_warnings(variance, rank, remedy) if len(sources) > 2 else (),
        scans=tuple(s.key for s in sources),
        modalities=tuple(s.modality for s in sources),
        spacings=tuple(s.spacing for s in sources),
    )


def _panels(
    b: int, image: Tensor, hidden: Tensor, rebuilt: Tensor, batch: Batch, source: Source
) -> tuple[Panel, Panel]:
    affine = crop_affine(source.affine, batch["start"][b].tolist())
    # A slice is a volume one voxel thick.
    extent = batch["extent"][b].tolist()
    true, shut, guess = (x[b, 0].reshape(extent) for x in (image, hidden, rebuilt))
    pasted = torch.where(shut, guess, true)
    masked = torch.where(shut, true.min(), true)
    volumes = [
        Volume(v.cpu().numpy(), affine, name)
        for v, name in ((masked, "what the network sees"), (pasted, "rebuilt"), (true, "true"))
    ]
    error = torch.where(shut, (guess - true).abs(), 0)
    return (
        ImagesPanel(
            title="Hidden, rebuilt, true",
            caption=(
                "Hidden blocks are black on the left. Rebuilt blocks take their mean and "
                "contrast from the truth; the structure inside them is the network's."
            ),
            volumes=tuple(volumes),
            names=tuple(v.name for v in volumes),
        ),
        OverlayPanel(
            title="Where rebuilding fails",
            caption="Absolute error on hidden voxels, over the scan.",
            volume=volumes[2],
            overlay=error.cpu().numpy(),
        ),
    )


def _blocks(image: Tensor, inside: Tensor, config: MaeConfig) -> tuple[Tensor, Tensor]:
    return to_blocks(image, config.blocks), to_blocks(inside[:, None], config.blocks)


def _per_sample(difference: Tensor, where: Tensor) -> Tensor:
    """Mean square over the voxels ``where``, one value a sample."""
    weight = where.expand_as(difference).flatten(1)
    return (difference.flatten(1).square() * weight).sum(1) / weight.sum(1).clamp_min(1)


def _voxels(config: MaeConfig) -> int:
    return math.prod(config.blocks)


def _times(size: Sequence[int]) -> str:
    return "×".join(str(s) for s in size)
