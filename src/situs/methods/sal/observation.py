"""What ``sal`` shows: matched positions between near slices, and slices' places in the scan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from situs.geometry import Plane
from situs.methods.base import Batch, Network
from situs.methods.monitors import collapse_warnings, effective_rank, feature_variance
from situs.methods.sal.config import SalConfig
from situs.methods.sal.heads import Embedded
from situs.methods.sal.matching import Matches, matches, planes_of
from situs.methods.sal.position_section import finite_mean, placing
from situs.observation import (
    MatchesPanel,
    Observation,
    Score,
    Section,
    Volume,
)
from situs.views.source import Source

Array = npt.NDArray[np.float64]

_SHOWN_PAIRS, _SHOWN_MATCHES = 3, 40
_MAX_RANK_ROWS = 4096  # an SVD of all positions would take longer than the step


def observe(
    config: SalConfig,
    out: Embedded,
    batch: Batch,
    network: Network,
    sources: Sequence[Source],
    step: int,
) -> Observation:
    """Scores, panels and warnings of one batch.

    Args:
        config: Of the method.
        out: Embeddings of all slices, ``(B·P·2, …)``.
        batch: What was sampled.
        network: For the curve through a whole scan.
        sources: The scan behind each sample.
        step: Optimiser steps done.
    """
    flat = out.positions.permute(0, 2, 3, 1).reshape(-1, out.positions.shape[1])
    rows = flat[:: max(1, len(flat) // _MAX_RANK_ROWS)]
    variance, rank = float(feature_variance(rows)), float(effective_rank(rows))
    remedy = (
        "raise weights.spread, weights.global or the batch size; 'local' alone is solved by a "
        "constant"
    )
    return Observation(
        method="sal",
        step=step,
        sections=(
            _matching(out, batch, sources, variance, rank),
            placing(config, out, batch, network, sources),
        ),
        warnings=collapse_warnings(variance, rank, remedy),
        scans=tuple(s.key for s in sources),
        modalities=tuple(s.modality for s in sources),
        spacings=tuple(s.spacing for s in sources),
    )


def _matching(
    out: Embedded, batch: Batch, sources: Sequence[Source], variance: float, rank: float
) -> Section:
    samples, pairs = batch["slices"].shape[:2]
    maps = out.positions.unflatten(0, (samples, pairs, 2))
    found = [
        [
            matches(
                maps[b, p, 0], maps[b, p, 1], batch["slices"][b, p, 0, 0], planes_of(batch, b, p)
            )
            for p in range(pairs)
        ]
        for b in range(samples)
    ]
    error = np.array([_mean([m.error_mm for m in ms]) for ms in found])
    returned = np.array([100 * _mean([m.returned for m in ms]) for ms in found])
    every = [m for ms in found for m in ms]
    h, w = maps.shape[-2:]
    scores = (
        Score(
            "match_distance",
            finite_mean(error),
            "mm",
            "lower",
            chance=finite_mean(np.array([m.chance_mm for m in every])),
            constant=finite_mean(np.array([m.trivial_mm for m in every])),
            label="distance of matched positions from the true place",
            samples=tuple(error.tolist()),
        ),
        Score(
            "cycle_consistency",
            finite_mean(returned),
            "%",
            "higher",
            chance=100 * min(1.0, 9 / (h * w)),
            label="positions that come back after matching there and back",
            samples=tuple(returned.tolist()),
        ),
        Score(
            "feature_variance",
            variance,
            "",
            "higher",
            collapsed=0.0,
            label="variance of position embeddings (0 collapsed, 1 spread)",
        ),
        Score(
            "feature_rank",
            rank,
            "",
            "higher",
            collapsed=1.0,
            label="directions used by the position embeddings",
        ),
    )
    return Section(
        title="Matching positions between near slices",
        explanation=(
            "Two slices of one scan, a few millimetres apart and posed at random, are matched "
            "position by position through their features. The true place is straight across."
        ),
        scores=scores,
        panels=tuple(
            _matches_panel(found[b][0], batch, b, sources[b])
            for b in range(min(_SHOWN_PAIRS, samples))
        ),
    )


def _matches_panel(found: Matches, batch: Batch, sample: int, source: Source) -> MatchesPanel:
    keep = np.linspace(0, len(found.error_mm) - 1, min(_SHOWN_MATCHES, len(found.error_mm)))
    shown = np.unique(keep.astype(int)) if len(found.error_mm) else np.zeros(0, dtype=int)
    planes = planes_of(batch, sample, 0)
    images = batch["slices"][sample, 0, :, 0].cpu().numpy()
    gap = abs(float(planes[0].distance_mm(planes[1].origin_mm)))
    right = found.error_mm[shown] <= 2 * planes[1].spacing[0] * _pixels_per_position(batch, found)
    return MatchesPanel(
        title=f"Matches in {source.key}, slices {gap:.1f} mm apart",
        caption=(
            "Lines join a position to its best match. Right ones end within two positions of the "
            "true place."
        ),
        left=_volume(images[0], planes[0], "slice"),
        right=_volume(images[1], planes[1], "near slice"),
        left_vox=_vox(found.start_px[shown]),
        predicted_vox=_vox(found.predicted_px[shown]),
        true_vox=_vox(found.true_px[shown]),
        right_or_wrong=right,
    )


def _pixels_per_position(batch: Batch, found: Matches) -> float:
    steps = np.diff(np.unique(np.round(found.start_px[:, 0], 3)))
    return float(steps.min()) if len(steps) else float(batch["slices"].shape[-1])


def _mean(parts: Sequence[npt.NDArray[np.generic]]) -> float:
    values = np.concatenate(list(parts)).astype(np.float64)
    return float(values.mean()) if len(values) else float("nan")


def _volume(image: Array, plane: Plane, name: str) -> Volume:
    """An image as a volume one voxel thick: rows along the first axis, columns the second."""
    affine = np.eye(4)
    affine[:3, 0] = plane.spacing[0] * plane.column_mm
    affine[:3, 1] = plane.spacing[1] * plane.row_mm
    affine[:3, 2] = plane.normal_mm
    affine[:3, 3] = plane.origin_mm
    return Volume(image[..., None], affine, name)


def _vox(points_px: Array) -> Array:
    """(column, row) in pixels → voxels of :func:`_volume`."""
    return np.stack([points_px[:, 1], points_px[:, 0], np.zeros(len(points_px))], axis=-1)
