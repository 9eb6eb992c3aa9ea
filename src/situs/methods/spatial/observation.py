"""What ``spatial`` shows: each sub-task's prediction beside the truth, in mm and degrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from situs.geometry import cycle_sums, gap_matrix
from situs.methods.base import Batch, Network
from situs.methods.monitors import collapse_warnings, effective_rank, feature_variance
from situs.methods.preview import WholeScan, whole_scan
from situs.methods.spatial.chunks import chunk_starts, cut
from situs.methods.spatial.config import SpatialConfig
from situs.methods.spatial.heads import SpatialHeads
from situs.methods.spatial.losses import off_diagonal
from situs.observation import (
    ArrowsPanel,
    BoxesPanel,
    MatrixPanel,
    Observation,
    Panel,
    ScatterPanel,
    Score,
    Section,
)
from situs.views.source import Source

Float = npt.NDArray[np.float64]
_AXES = ("right–left", "back–front", "bottom–top")
_SHOWN = 3  # samples that get figures of their own


class Gaps(NamedTuple):
    """Predicted and true gaps or vectors, ``(B, V, V, 3)`` in mm."""

    predicted: Tensor
    true: Tensor


class Chunks(NamedTuple):
    """Chunk choices of every pair i < j of every sample.

    ``starts (B, P, 4, 3)`` inside the views; ``closest`` and ``farthest (B, P)`` index the four
    pairs of one chunk of i and one of j: (towards, towards), (towards, away), (away, towards),
    (away, away). Right is 0 for the closest and 3 for the farthest.
    """

    pairs: Tensor
    starts: Tensor
    closest: Tensor
    farthest: Tensor


def observe(
    config: SpatialConfig,
    dense: Tensor,
    vectors: Tensor,
    batch: Batch,
    student: Network,
    items: Sequence[Sequence[Source]],
    step: int,
) -> Observation:
    """All sub-tasks of one held-out batch.

    Args:
        config: The method's configuration, with ``length_mm`` filled in.
        dense: ``(B·V, C, *view)`` features of all views, from the student.
        vectors: ``(B·V, D)`` view vectors.
        batch: The views' geometry.
        student: Its heads predict.
        items: The scan behind each sample, for the figures.
        step: Training step.
    """
    heads = cast(SpatialHeads, student.heads)
    centers_mm = batch["centers_mm"]
    count, views = centers_mm.shape[:2]
    vectors = vectors.reshape(count, views, -1)
    length = centers_mm.new_tensor(config.length_mm or (1.0, 1.0, 1.0))
    true = gap_matrix(centers_mm)
    gaps = Gaps(heads.gaps(vectors).float() * length, true)
    steps = Gaps(heads.steps(vectors).float() * length, true)
    chunks = choose_chunks(config, dense.reshape(count, views, *dense.shape[1:]), batch, heads)
    scans = [item[0] for item in items]
    shown = [whole_scan(scan) for scan in scans[:_SHOWN]]
    flat = vectors.flatten(0, 1)
    return Observation(
        method="spatial",
        step=step,
        sections=(
            _gap_section(gaps, _SHOWN),
            _chunk_section(config, chunks, batch, shown),
            _vector_section(config, steps, batch, shown),
        ),
        warnings=collapse_warnings(
            # Only differences of vectors count here: an offset that all share is no collapse.
            float(feature_variance(flat - flat.mean(0))),
            float(effective_rank(flat)),
            "Raise weights.gap_axis against the chunk terms, or lower the learning rate.",
        ),
        scans=tuple(scan.key for scan in scans),
        modalities=tuple(scan.modality for scan in scans),
        spacings=tuple(scan.spacing for scan in scans),
    )


def choose_chunks(
    config: SpatialConfig, dense: Tensor, batch: Batch, heads: SpatialHeads
) -> Chunks:
    """Which chunks of each pair of views the network finds closest and farthest.

    Args:
        config: Sizes.
        dense: ``(B, V, C, *view)``.
        batch: ``centers_vox``.
        heads: Embeds the chunks.
    """
    count, views = dense.shape[:2]
    device = dense.device
    i, j = torch.triu_indices(views, views, offset=1, device=device)
    gaps_vox = batch["centers_vox"][:, j] - batch["centers_vox"][:, i]
    starts = chunk_starts(gaps_vox, config.view_size, config.chunk_size)  # (B, P, 4, 3)
    rows = torch.arange(count, device=device)[:, None] * views
    which = torch.stack([rows + i, rows + j, rows + i, rows + j], dim=-1)
    cubes = cut(dense.flatten(0, 1), which.flatten(), starts.reshape(-1, 3), config.chunk_size)
    embedded = F.normalize(heads.chunk_vector(cubes).float(), dim=-1).reshape(count, len(i), 4, -1)
    of_i, of_j = embedded[:, :, [0, 2]], embedded[:, :, [1, 3]]
    likeness = (of_i @ of_j.transpose(-1, -2)).flatten(-2)  # (B, P, 4)
    return Chunks(torch.stack([i, j]), starts, likeness.argmax(-1), likeness.argmin(-1))


def _gap_section(gaps: Gaps, shown: int) -> Section:
    predicted, true = off_diagonal(gaps.predicted), off_diagonal(gaps.true)
    miss = (predicted - true).norm(dim=-1)
    distances, true_distances = predicted.norm(dim=-1), true.norm(dim=-1)
    distance_miss = (distances - true_distances).abs()
    residual = (predicted - true).square().sum((0, 1))
    spread = true.square().sum((0, 1)).clamp_min(1e-9)
    r2 = float((1 - residual / spread).mean())
    flat = true.flatten(0, 1)
    panels: list[Panel] = [
        MatrixPanel(
            title=f"Distances between the views of scan {b + 1}",
            caption="Each cell is the distance between two views' centres.",
            predicted=_np(gaps.predicted[b].norm(dim=-1)),
            true=_np(gaps.true[b].norm(dim=-1)),
            labels=tuple(f"view {v + 1}" for v in range(gaps.true.shape[1])),
        )
        for b in range(min(shown, len(gaps.true)))
    ]
    panels.append(
        ScatterPanel(
            title="Gaps along each axis",
            caption="On the diagonal the prediction is exact; a flat cloud knows nothing.",
            predicted=_np(predicted.reshape(-1)),
            true=_np(true.reshape(-1)),
            quantity="gap",
            groups=tuple(np.tile(_AXES, predicted.numel() // 3).tolist()),
        )
    )
    return Section(
        title="Gap matrix",
        explanation="How far apart, and along which axis, are two sub-volumes of one scan?",
        scores=(
            _score(
                "gap_error",
                miss,
                "mm",
                "gap vector error",
                mean_pairwise(flat),
                flat.norm(dim=-1).mean(),
            ),
            _score(
                "gap_mae",
                distance_miss,
                "mm",
                "distance error",
                mean_pairwise(true_distances.reshape(-1, 1)),
                (true_distances - true_distances.median()).abs().mean(),
            ),
            Score("gap_r2", r2, "", "higher", chance=-1.0, constant=0.0, label="R² of gaps"),
        ),
        panels=tuple(panels),
    )


def _chunk_section(
    config: SpatialConfig, chunks: Chunks, batch: Batch, scans: Sequence[WholeScan]
) -> Section:
    adjacent, distant = chunks.closest == 0, chunks.farthest == 3
    panels = tuple(_chunk_panel(config, chunks, batch, b, scan) for b, scan in enumerate(scans))
    return Section(
        title="Adjacent and distant chunks",
        explanation=(
            "Two chunks are cut from each of two views, one facing the other view and one facing "
            "away. Which of the four pairs lies closest together, which farthest apart?"
        ),
        scores=(
            _score("adjacent_accuracy", 100 * adjacent.float(), "%", "closest pair found", 25.0),
            _score("distant_accuracy", 100 * distant.float(), "%", "farthest pair found", 25.0),
        ),
        panels=panels,
    )


def _chunk_panel(
    config: SpatialConfig, chunks: Chunks, batch: Batch, sample: int, scan: WholeScan
) -> BoxesPanel:
    """The first pair of views of a sample, with its truly adjacent and chosen chunks."""
    i, j = (int(v) for v in chunks.pairs[:, 0])
    view_starts = batch["start_vox"][sample]
    corner = {"i": (view_starts[i], (0, 2)), "j": (view_starts[j], (1, 3))}
    chosen = int(chunks.closest[sample, 0])
    boxes = [(view_starts[i], config.view_size, f"view {i + 1}", "view")]
    boxes.append((view_starts[j], config.view_size, f"view {j + 1}", "view"))
    for side, pick in (("i", chosen // 2), ("j", chosen % 2)):
        origin, order = corner[side]
        start = origin + chunks.starts[sample, 0, order[pick]]
        role = "right" if pick == 0 else "wrong"
        boxes.append((start, config.chunk_size, "chosen as closest", role))
        if pick:
            start = origin + chunks.starts[sample, 0, order[0]]
            boxes.append((start, config.chunk_size, "truly closest", "true"))
    return BoxesPanel(
        title=f"Chunks of scan {sample + 1}",
        caption="The two chunks that the network holds for the closest of the four.",
        volume=scan.volume,
        start_vox=scan.sizes(np.stack([_np(start) for start, *_ in boxes])),
        size_vox=scan.sizes([size for _, size, *_ in boxes]),
        names=tuple(name for *_, name, _ in boxes),
        roles=tuple(role for *_, role in boxes),
    )


def _vector_section(
    config: SpatialConfig, steps: Gaps, batch: Batch, scans: Sequence[WholeScan]
) -> Section:
    predicted, true = off_diagonal(steps.predicted), off_diagonal(steps.true)
    apart = true.norm(dim=-1) > 1e-6
    angle = torch.rad2deg(torch.arccos(F.cosine_similarity(predicted, true, dim=-1).clamp(-1, 1)))
    angle = torch.where(apart, angle, torch.nan)
    flat = true[apart]
    unit = F.normalize(flat, dim=-1)
    chance_angle = torch.rad2deg(torch.arccos((unit @ unit.T).clamp(-1, 1)))
    others = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    miss = (predicted - true).norm(dim=-1)
    scores = [
        _score("direction_error", angle, "°", "direction error", chance_angle[others].mean(), 90.0),
        _score(
            "vector_error",
            miss,
            "mm",
            "vector error",
            mean_pairwise(flat),
            flat.norm(dim=-1).mean(),
        ),
    ]
    if steps.true.shape[1] >= 3:
        closure = cycle_sums(steps.predicted).norm(dim=-1)
        # Chance: three gaps drawn at random do not close.
        drawn = torch.stack([flat, flat.roll(1, 0), flat.roll(2, 0)]).sum(0).norm(dim=-1).mean()
        score = _score("route_closure", closure, "mm", "route closure", drawn)
        scores.append(replace(score, by_construction=config.head == "difference"))
    return Section(
        title="Vectors and routes",
        explanation=(
            "Which way is it from one sub-volume to the other? A round trip must close."
            + (
                " With the difference head it closes by construction, so its zero shows nothing."
                if config.head == "difference"
                else ""
            )
        ),
        scores=tuple(scores),
        panels=tuple(_arrows(config, steps, batch, b, scan) for b, scan in enumerate(scans)),
    )


def _arrows(
    config: SpatialConfig, steps: Gaps, batch: Batch, sample: int, scan: WholeScan
) -> ArrowsPanel:
    centers_vox, spacing_mm = batch["centers_vox"][sample], batch["spacing_mm"][sample]
    views = len(centers_vox)
    order = list(range(views))
    begin, end = order, [*order[1:], order[0]]
    size = torch.tensor(config.view_size, device=centers_vox.device)
    starts = batch["start_vox"][sample]
    return ArrowsPanel(
        title=f"The way from view to view in scan {sample + 1}",
        caption="Every predicted arrow should end where the true one does.",
        volume=scan.volume,
        start_vox=scan.points(_np(centers_vox[begin])),
        predicted_vox=scan.points(
            _np(centers_vox[begin] + steps.predicted[sample, begin, end] / spacing_mm)
        ),
        true_vox=scan.points(_np(centers_vox[end])),
        boxes_vox=scan.sizes(_np(torch.stack([starts, size.expand_as(starts)], dim=1))),
        names=tuple(f"view {i + 1} → view {j + 1}" for i, j in zip(begin, end, strict=True)),
    )


def mean_pairwise(values: Tensor) -> float:
    """E‖a − b‖ over different rows of ``values (N, K)``: the error of guessing another row."""
    count = len(values)
    return float(torch.cdist(values, values).sum() / max(1, count * (count - 1)))


def _score(
    name: str,
    values: Tensor,
    unit: str,
    label: str,
    chance: Tensor | float,
    constant: Tensor | float | None = None,
) -> Score:
    """A score from ``values (B, …)``: a mean per sample, and over all."""
    samples = values.float().flatten(1).nanmean(1)
    return Score(
        name=name,
        value=float(samples.nanmean()),
        unit=unit,
        better="higher" if unit == "%" else "lower",
        chance=float(chance),
        constant=None if constant is None else float(constant),
        label=label,
        samples=tuple(samples.tolist()),
    )


def _np(tensor: Tensor) -> Float:
    return tensor.detach().cpu().double().numpy()
