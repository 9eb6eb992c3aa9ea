"""The finest granularity of ``spatial``: what every voxel says of the way to the other view; ours.

The arXiv paper 2509.05967 compares views and chunks. Here each voxel of a view answers, so that the
decoder is trained everywhere and not through a mean, and the answer can be drawn as a map.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from situs.geometry import gap_matrix
from situs.methods.base import Batch, Samples, Scores
from situs.methods.measured import Measured, mean_pairwise
from situs.methods.preview import whole_scan
from situs.methods.spatial.losses import off_diagonal
from situs.observation import OverlayPanel, Section
from situs.views.subvolume import crop_affine


def voxel_errors(steps: Tensor, true: Tensor, length: Tensor) -> Tensor:
    """How far off in mm the vectors of all voxels are.

    Args:
        steps: ``(…, 3, X, Y, Z)`` predicted, in normalised lengths.
        true: ``(…, 3)`` gaps in mm.
        length: ``(3,)`` what gaps are divided by, in mm.

    Returns:
        ``(…, X, Y, Z)``.
    """
    per_axis = (3, 1, 1, 1)
    miss: Tensor = steps * length.reshape(per_axis) - true[..., None, None, None]
    return miss.norm(dim=-4)


def pair_errors(places: Tensor, centers_mm: Tensor, length: Tensor, i: int, j: int) -> Tensor:
    """``(B, X, Y, Z)`` in mm: the vectors from the voxels of view i to the centre of view j.

    Those from j to i are off by as much: both come from the same two predictions.
    """
    return voxel_errors(places[:, j] - places[:, i], centers_mm[:, j] - centers_mm[:, i], length)


def measure_voxels(places: Tensor, length: Tensor, batch: Batch) -> Measured:
    """The mean error of all voxels and pairs of views, in mm.

    Its references are those of a gap: an answer that knows a voxel's place in its view, as the
    view's borders tell it, and nothing of anatomy is off by the gap.

    Args:
        places: ``(B, V, 3, X, Y, Z)`` in normalised lengths.
        length: ``(3,)`` in mm.
        batch: ``centers_mm``.
    """
    centers = batch["centers_mm"]
    pairs = combinations(range(centers.shape[1]), 2)
    errors = [pair_errors(places, centers, length, i, j).mean((1, 2, 3)) for i, j in pairs]
    gaps = off_diagonal(gap_matrix(centers)).flatten(0, 1)
    return Measured(
        "voxel_error",
        torch.stack(errors, dim=1),
        "mm",
        "lower",
        "vector error of a voxel",
        chance=mean_pairwise(gaps),
        constant=gaps.norm(dim=-1).mean(),
    )


def voxel_section(
    places: Tensor, length: Tensor, samples: Samples, scores: Scores, shown: int
) -> Section:
    """A map of errors for the first ``shown`` samples, over the scan that the view lies in."""
    batch = samples.batch
    views = places.shape[1]
    of_first = [
        pair_errors(places[:shown], batch["centers_mm"][:shown], length, 0, j)
        for j in range(1, views)
    ]
    maps = torch.stack(of_first).mean(0).cpu().numpy()
    return Section(
        title="Voxels",
        explanation=(
            "Which way is it from each voxel of a view to the centre of another view? The voxel's "
            "own place in its view is given, so that an empty view cannot answer."
        ),
        scores=scores.of("voxel_error"),
        panels=tuple(
            OverlayPanel(
                title=f"Errors of the voxels of view 1 of scan {b + 1}",
                caption=(
                    "How far off, in mm, the way to the other views is that each voxel predicts: "
                    "where it is small the place is recognised, where it is large it could be any."
                ),
                volume=whole_scan(scan).volume,
                overlay=errors,
                overlay_affine=crop_affine(scan.affine, batch["start_vox"][b, 0].tolist()),
            )
            for b, (scan, errors) in enumerate(zip(samples.scans, maps, strict=False))
        ),
    )
