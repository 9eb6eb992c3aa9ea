"""What ``simclr`` shows: which scan each view is taken for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from situs.methods.base import Batch
from situs.methods.monitors import collapse_warnings, effective_rank, feature_variance
from situs.methods.precision import cosines
from situs.observation import (
    ImagesPanel,
    MatrixPanel,
    Observation,
    Panel,
    Score,
    Section,
    Volume,
)
from situs.views.source import Source
from situs.views.subvolume import crop_affine

_SHOWN = 3


def retrieval(queries: Tensor, gallery: Tensor, same: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest neighbours by cosine similarity.

    Args:
        queries: ``(N, D)``.
        gallery: ``(M, D)``.
        same: ``(N, M)`` boolean, whether query and gallery entry are of one scan.

    Returns:
        Similarities ``(N, M)``, index of the nearest ``(N,)``, whether it is right ``(N,)``.
    """
    similarity = cosines(queries, gallery)
    nearest = similarity.argmax(1)
    return similarity, nearest, same.gather(1, nearest[:, None])[:, 0]


def observe(
    embeddings: Tensor, features: Tensor, batch: Batch, sources: Sequence[Source], step: int
) -> Observation:
    """Scores and pictures of one batch.

    Args:
        embeddings: ``(B, 2, D)``.
        features: ``(B, 2, D')`` pooled features before the projection, for the monitors.
        batch: What was sampled.
        sources: The scan behind each sample.
        step: Optimiser steps done.
    """
    keys = np.array([s.key for s in sources])
    same = torch.from_numpy(keys[:, None] == keys[None])
    similarity, nearest, right = retrieval(embeddings[:, 0].cpu(), embeddings[:, 1].cpu(), same)
    correct = right.float()
    flat = features.flatten(0, 1)
    variance, rank = float(feature_variance(flat)), float(effective_rank(flat))
    section = Section(
        title="Finding the same scan again",
        explanation=(
            f"Each of {len(sources)} held-out views looks for its partner among the other "
            "views: two crops about the same place, changed in zoom and intensity."
        ),
        scores=(
            Score(
                "retrieval_accuracy",
                100 * float(correct.mean()),
                "%",
                "higher",
                chance=100 * float(same.float().mean()),
                label="nearest neighbour is a view of the same scan",
                samples=tuple((100 * correct).tolist()),
            ),
            Score(
                "feature_rank",
                rank,
                "",
                "higher",
                collapsed=1.0,
                label=f"directions used by the features of {len(flat)} views",
            ),
        ),
        panels=(
            MatrixPanel(
                title="Similarity of views",
                caption=(
                    "Rows are first views, columns second views; the true matrix is 1 where both "
                    "are of one scan. A trained network is bright on the diagonal only."
                ),
                predicted=similarity.numpy(),
                true=same.float().numpy(),
                labels=tuple(keys.tolist()) if len(keys) <= 12 else (),
                unit="",
            ),
            *(
                _neighbours(b, batch, sources, nearest.tolist(), right.tolist())
                for b in range(min(_SHOWN, len(sources)))
            ),
        ),
    )
    remedy = "enlarge the batch, strengthen the intensity changes, or raise the temperature"
    return Observation(
        method="simclr",
        step=step,
        sections=(section,),
        warnings=collapse_warnings(variance, rank, remedy) if len(sources) > 2 else (),
        scans=tuple(keys.tolist()),
        modalities=tuple(s.modality for s in sources),
        spacings=tuple(s.spacing for s in sources),
    )


def _neighbours(
    b: int, batch: Batch, sources: Sequence[Source], nearest: list[int], right: list[bool]
) -> Panel:
    found = nearest[b]
    verdict = "right" if right[b] else "wrong"
    volumes = (
        _volume(batch, sources, b, 0, "view"),
        _volume(batch, sources, found, 1, f"nearest ({verdict})"),
        _volume(batch, sources, b, 1, "its partner"),
    )
    return ImagesPanel(
        title=f"Nearest neighbour of a view of {sources[b].key}",
        caption=f"The nearest second view is of {sources[found].key}: {verdict}.",
        volumes=volumes,
        names=tuple(v.name for v in volumes),
    )


def _volume(batch: Batch, sources: Sequence[Source], b: int, view: int, name: str) -> Volume:
    """A view with the affine of the grid it was resampled to (flips are not undone)."""
    array = batch["views"][b, view, 0].cpu().numpy()
    extent = batch["extent"][b, view].cpu().numpy()
    if array.ndim == 2:  # A slice is a volume one voxel thick.
        array = np.expand_dims(array, int(np.flatnonzero(extent == 1)[0]))
    zoom = extent / np.asarray(array.shape)
    # Voxel centres of the resampled grid lie half a new voxel inside the crop's border.
    first = batch["start"][b, view].cpu().numpy() + (zoom - 1) / 2
    affine = crop_affine(sources[b].affine, first)
    affine[:3, :3] = affine[:3, :3] * zoom
    return Volume(array, affine, name)
