"""Methods that compare two views of a scan are judged by which scan each view is taken for.

The measure is ours: arXiv 2002.05709 judges features by what is learned on top of them. Guessing
finds a partner by chance, and scans without anatomy say how much the outline alone tells.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from situs.methods.base import Method, Nets, Samples, Scores
from situs.methods.measured import Measured
from situs.methods.precision import cosines
from situs.observation import ImagesPanel, MatrixPanel, Section, Volume
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


class Predicted(NamedTuple):
    """Embeddings ``(B, 2, D)`` on the CPU and features ``(B, 2, D')`` of two views a sample."""

    embeddings: Tensor
    features: Tensor


class ViewRetrieval(Method):
    """A method whose samples are two views of a scan, ``views (2, C, *size)``.

    It is judged by whether a held-out view finds its partner among those of other scans.
    """

    monitor = "retrieval_accuracy"
    least_batch = 2

    def measure(self, samples: Samples, predicted: Predicted) -> list[Measured]:
        """How often the nearest view is of the same scan."""
        _, _, right, same = _retrieved(predicted, samples)
        return [
            Measured(
                "retrieval_accuracy",
                100 * right.float(),
                "%",
                "higher",
                "nearest neighbour is a view of the same scan",
                chance=100 * same.float().mean(),
            )
        ]

    def features(self, predicted: Predicted) -> Tensor:
        """Pooled features before the projection."""
        return predicted.features.flatten(0, 1)

    def sections(
        self, samples: Samples, predicted: Predicted, nets: Nets, scores: Scores
    ) -> list[Section]:
        """Similarities of all views, and the neighbours of a few."""
        similarity, nearest, right, same = _retrieved(predicted, samples)
        keys = [scan.key for scan in samples.scans]
        matrix = MatrixPanel(
            title="Similarity of views",
            caption=(
                "Rows are first views, columns second views; the true matrix is 1 where both "
                "are of one scan. A trained network is bright on the diagonal only."
            ),
            predicted=similarity.numpy(),
            true=same.float().numpy(),
            labels=tuple(keys) if len(keys) <= 12 else (),
            unit="",
        )
        neighbours = (
            _neighbours(samples, b, int(nearest[b]), bool(right[b]))
            for b in range(min(_SHOWN, len(keys)))
        )
        explanation = (
            f"Each of {len(keys)} held-out views looks for its partner among the other "
            "views: two crops about the same place, changed in zoom and intensity."
        )
        title = "Finding the same scan again"
        return [Section(title, explanation, panels=(matrix, *neighbours))]


def _retrieved(predicted: Predicted, samples: Samples) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of :func:`retrieval` among all samples, and which pairs are of one scan."""
    keys = np.array([scan.key for scan in samples.scans])
    same = torch.from_numpy(keys[:, None] == keys[None])
    first, second = predicted.embeddings.unbind(1)
    return *retrieval(first, second, same), same


def _neighbours(samples: Samples, b: int, found: int, right: bool) -> ImagesPanel:
    verdict, scans = "right" if right else "wrong", samples.scans
    volumes = (
        _volume(samples, b, 0, "view"),
        _volume(samples, found, 1, f"nearest ({verdict})"),
        _volume(samples, b, 1, "its partner"),
    )
    return ImagesPanel(
        title=f"Nearest neighbour of a view of {scans[b].key}",
        caption=f"The nearest second view is of {scans[found].key}: {verdict}.",
        volumes=volumes,
        names=tuple(v.name for v in volumes),
    )


def _volume(samples: Samples, b: int, view: int, name: str) -> Volume:
    """A view with the affine of the grid it was resampled to (flips are not undone)."""
    array, extent, start = (
        samples.batch[key][b, view].cpu().numpy() for key in ("views", "extent", "start")
    )
    array = array[0]
    if array.ndim == 2:  # A slice is a volume one voxel thick.
        array = np.expand_dims(array, int(np.flatnonzero(extent == 1)[0]))
    zoom = extent / np.asarray(array.shape)
    # Voxel centres of the resampled grid lie half a new voxel inside the crop's border.
    affine = crop_affine(samples.scans[b].affine, start + (zoom - 1) / 2)
    affine[:3, :3] = affine[:3, :3] * zoom
    return Volume(array, affine, name)
