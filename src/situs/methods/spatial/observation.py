"""What ``spatial`` shows: each sub-task's prediction beside the truth, in mm and degrees.

The tasks are those of arXiv 2509.05967; scores in mm and degrees, closed round trips and the map of
``voxel`` are ours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from situs.geometry import cycle_sums, gap_matrix
from situs.methods.base import Batch, Method, Nets, Samples, Scores
from situs.methods.measured import Measured, mean_pairwise
from situs.methods.preview import WholeScan, whole_scan
from situs.methods.spatial.chunks import chunk_starts, cut_chunks
from situs.methods.spatial.config import SpatialConfig
from situs.methods.spatial.heads import SpatialHeads, encode
from situs.methods.spatial.losses import off_diagonal
from situs.methods.spatial.voxels import measure_voxels, voxel_section
from situs.observation import ArrowsPanel, BoxesPanel, MatrixPanel, Panel, ScatterPanel, Section
from situs.tensors import constant, to_numpy

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


class Predicted(NamedTuple):
    """What the network says of the views: gaps and vectors in mm, chunks, and ``(B, V, D)``.

    ``places (B, V, 3, *view)``, in units of ``length (3,)`` mm, where ``voxel`` is trained.
    """

    gaps: Tensor
    steps: Tensor
    chunks: Chunks
    vectors: Tensor
    length: Tensor
    places: Tensor | None = None


class ObservedSpatial(Method):
    """What is asked of ``spatial`` on held-out samples: three sub-tasks, and ``voxel``."""

    monitor = "gap_error"
    watched = "view vectors"
    config: SpatialConfig

    def length(self, like: Tensor) -> Tensor:
        """The normalising length ``(3,)`` in mm, on the device and dtype of ``like``."""
        return constant(self.config.length_mm or (1.0, 1.0, 1.0), like)

    def predict(self, batch: Batch, nets: Nets) -> Predicted:
        """Gaps, vectors and chosen chunks of all views, by the student: it is what is exported."""
        shape, length = batch["centers_mm"].shape[:2], self.length(batch["centers_mm"])
        heads: SpatialHeads = nets.student.heads
        dense, flat = encode(nets.student, batch["views"].flatten(0, 1))
        vectors = flat.unflatten(0, shape)
        return Predicted(
            gaps=heads.gaps(vectors).float() * length,
            steps=heads.steps(vectors).float() * length,
            chunks=choose_chunks(self.config, dense.unflatten(0, shape), batch, heads),
            vectors=vectors,
            length=length,
            places=heads.places(dense).unflatten(0, shape) if self.config.voxels else None,
        )

    def features(self, predicted: Predicted) -> Tensor:
        """View vectors about their mean: only differences count, a shared offset is no collapse."""
        flat = predicted.vectors.flatten(0, 1)
        return flat - flat.mean(0)

    def measure(self, samples: Samples, predicted: Predicted) -> list[Measured]:
        """Gaps, chunks, vectors and routes beside the truth, in mm and degrees."""
        batch, chunks = samples.batch, predicted.chunks
        true = gap_matrix(batch["centers_mm"])
        found = _measure_gaps(Gaps(predicted.gaps, true))
        for name, label, right in (
            ("adjacent_accuracy", "closest pair found", chunks.closest == 0),
            ("distant_accuracy", "farthest pair found", chunks.farthest == 3),
        ):
            found.append(Measured(name, 100 * right.float(), "%", "higher", label, chance=25.0))
        closes = self.config.head == "difference"
        found += _measure_vectors(Gaps(predicted.steps, true), closes)
        if predicted.places is not None:
            found.append(measure_voxels(predicted.places, predicted.length, batch))
        return found

    def sections(
        self, samples: Samples, predicted: Predicted, nets: Nets, scores: Scores
    ) -> list[Section]:
        """One section a sub-task."""
        config, batch = self.config, samples.batch
        true = gap_matrix(batch["centers_mm"])
        shown = [whole_scan(scan) for scan in samples.scans[:_SHOWN]]
        way = "Which way is it from one sub-volume to the other? A round trip must close."
        if config.head == "difference":
            way += " With the difference head it closes by construction, so its zero shows nothing."
        sections = [
            Section(
                title="Gap matrix",
                explanation="How far apart, and along which axis, are two sub-volumes of one scan?",
                scores=scores.of("gap_error", "gap_mae", "gap_r2"),
                panels=_gap_panels(Gaps(predicted.gaps, true)),
            ),
            Section(
                title="Adjacent and distant chunks",
                explanation=(
                    "Two chunks are cut from each of two views, one facing the other view and one "
                    "facing away. Which of the four pairs lies closest together, which farthest "
                    "apart?"
                ),
                scores=scores.of("adjacent_accuracy", "distant_accuracy"),
                panels=tuple(
                    _chunk_panel(config, predicted.chunks, batch, b, scan)
                    for b, scan in enumerate(shown)
                ),
            ),
            Section(
                title="Vectors and routes",
                explanation=way,
                scores=scores.of("direction_error", "vector_error", "route_closure"),
                panels=tuple(
                    _arrows(config, predicted.steps[b], batch, b, scan)
                    for b, scan in enumerate(shown)
                ),
            ),
        ]
        if predicted.places is not None:
            places, length = predicted.places, predicted.length
            sections.append(voxel_section(places, length, samples, scores, _SHOWN))
        return sections


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
    cubes = cut_chunks(
        dense.flatten(0, 1), which.flatten(), starts.reshape(-1, 3), config.chunk_size
    )
    embedded = F.normalize(heads.chunk_vector(cubes).float(), dim=-1).reshape(count, len(i), 4, -1)
    of_i, of_j = embedded[:, :, [0, 2]], embedded[:, :, [1, 3]]
    likeness = (of_i @ of_j.transpose(-1, -2)).flatten(-2)  # (B, P, 4)
    return Chunks(torch.stack([i, j]), starts, likeness.argmax(-1), likeness.argmin(-1))


def _measure_gaps(gaps: Gaps) -> list[Measured]:
    predicted, true = off_diagonal(gaps.predicted), off_diagonal(gaps.true)
    distances, true_distances = predicted.norm(dim=-1), true.norm(dim=-1)
    residual = (predicted - true).square().sum((0, 1))
    spread = true.square().sum((0, 1)).clamp_min(1e-9)
    flat = true.flatten(0, 1)
    return [
        Measured(
            "gap_error",
            (predicted - true).norm(dim=-1),
            "mm",
            "lower",
            "gap vector error",
            chance=mean_pairwise(flat),
            constant=flat.norm(dim=-1).mean(),
        ),
        Measured(
            "gap_mae",
            (distances - true_distances).abs(),
            "mm",
            "lower",
            "distance error",
            chance=mean_pairwise(true_distances.reshape(-1, 1)),
            constant=(true_distances - true_distances.median()).abs().mean(),
        ),
        Measured(
            "gap_r2",
            None,
            "",
            "higher",
            "R² of gaps",
            chance=-1.0,
            constant=0.0,
            value=(1 - residual / spread).mean(),
        ),
    ]


def _gap_panels(gaps: Gaps) -> tuple[Panel, ...]:
    predicted, true = (to_numpy(off_diagonal(g).reshape(-1)) for g in gaps)
    matrices = [
        MatrixPanel(
            title=f"Distances between the views of scan {b + 1}",
            caption="Each cell is the distance between two views' centres.",
            predicted=to_numpy(gaps.predicted[b].norm(dim=-1)),
            true=to_numpy(gaps.true[b].norm(dim=-1)),
            labels=tuple(f"view {v + 1}" for v in range(gaps.true.shape[1])),
        )
        for b in range(min(_SHOWN, len(gaps.true)))
    ]
    scatter = ScatterPanel(
        title="Gaps along each axis",
        caption="On the diagonal the prediction is exact; a flat cloud knows nothing.",
        predicted=predicted,
        true=true,
        quantity="gap",
        groups=tuple(np.tile(_AXES, len(true) // 3).tolist()),
    )
    return (*matrices, scatter)


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
        start_vox=scan.sizes(np.stack([to_numpy(start) for start, *_ in boxes])),
        size_vox=scan.sizes([size for _, size, *_ in boxes]),
        names=tuple(name for *_, name, _ in boxes),
        roles=tuple(role for *_, role in boxes),
    )


def _measure_vectors(steps: Gaps, closes: bool) -> list[Measured]:
    predicted, true = off_diagonal(steps.predicted), off_diagonal(steps.true)
    apart = true.norm(dim=-1) > 1e-6
    angle = torch.rad2deg(torch.arccos(F.cosine_similarity(predicted, true, dim=-1).clamp(-1, 1)))
    flat = true[apart]
    unit = F.normalize(flat, dim=-1)
    chance_angle = torch.rad2deg(torch.arccos((unit @ unit.T).clamp(-1, 1)))
    others = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    found = [
        Measured(
            "direction_error",
            torch.where(apart, angle, torch.nan),
            "°",
            "lower",
            "direction error",
            chance=chance_angle[others].mean(),
            constant=90.0,
        ),
        Measured(
            "vector_error",
            (predicted - true).norm(dim=-1),
            "mm",
            "lower",
            "vector error",
            chance=mean_pairwise(flat),
            constant=flat.norm(dim=-1).mean(),
        ),
    ]
    if steps.true.shape[1] >= 3:
        # Chance: three gaps drawn at random do not close.
        drawn = torch.stack([flat, flat.roll(1, 0), flat.roll(2, 0)]).sum(0).norm(dim=-1).mean()
        found.append(
            Measured(
                "route_closure",
                cycle_sums(steps.predicted).norm(dim=-1),
                "mm",
                "lower",
                "route closure",
                chance=drawn,
                by_construction=closes,
            )
        )
    return found


def _arrows(
    config: SpatialConfig, steps: Tensor, batch: Batch, sample: int, scan: WholeScan
) -> ArrowsPanel:
    """Predicted steps ``(V, V, 3)`` in mm of a tour of a sample's views, beside the true ones."""
    centers_vox, starts = batch["centers_vox"][sample], batch["start_vox"][sample]
    begin = list(range(len(centers_vox)))
    end = [*begin[1:], begin[0]]
    size = torch.tensor(config.view_size, device=starts.device)
    found_vox = centers_vox[begin] + steps[begin, end] / batch["spacing_mm"][sample]
    return ArrowsPanel(
        title=f"The way from view to view in scan {sample + 1}",
        caption="Every predicted arrow should end where the true one does.",
        volume=scan.volume,
        start_vox=scan.points(centers_vox[begin]),
        predicted_vox=scan.points(found_vox),
        true_vox=scan.points(centers_vox[end]),
        boxes_vox=scan.sizes(torch.stack([starts, size.expand_as(starts)], dim=1)),
        names=tuple(f"view {i + 1} → view {j + 1}" for i, j in zip(begin, end, strict=True)),
    )
