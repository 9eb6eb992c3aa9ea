"""What ``sal`` shows: matched positions between near slices, and slices' places in the scan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from situs.methods.base import Batch, Method, Nets, Samples, Scores
from situs.methods.measured import Measured, finite_mean
from situs.methods.sal.config import SalConfig
from situs.methods.sal.heads import Embedded
from situs.methods.sal.matching import Matches, discs_of, matches, planes_of, slice_volume
from situs.methods.sal.pixels import measure_pixels, pixel_section
from situs.methods.sal.position_section import measure_position, place_section
from situs.observation import MatchesPanel, Section
from situs.views.source import Source

Array = npt.NDArray[np.float64]

_SHOWN_PAIRS, _SHOWN_MATCHES = 3, 40


class ObservedSal(Method):
    """What is asked of ``sal`` on held-out samples."""

    watched = "the embeddings"
    config: SalConfig

    def measure(self, samples: Samples, predicted: Embedded) -> list[Measured]:
        """Matched positions, places along the scan, and places of pixels."""
        found: list[Measured] = []
        if predicted.positions is not None:
            cells = predicted.positions[0, 0].numel()
            found += measure_matching(matched(predicted.positions, samples.batch), cells)
        found.append(measure_position(self.config, predicted, samples))
        if predicted.places is not None:
            found.append(measure_pixels(predicted.places, samples.batch, self.config.unit_mm))
        return found

    def features(self, predicted: Embedded) -> Tensor:
        """Embeddings of all positions, or of slices where positions are not matched."""
        if predicted.positions is None:
            return predicted.slices
        return predicted.positions.movedim(1, -1).flatten(0, -2)

    def sections(
        self, samples: Samples, predicted: Embedded, nets: Nets, scores: Scores
    ) -> list[Section]:
        """Matches between near slices, places of pixels, and places along scans."""
        config, shown = self.config, []
        if predicted.positions is not None:
            shown.append(matching_section(predicted.positions, samples, scores))
        if predicted.places is not None:
            shown.append(pixel_section(predicted.places, samples, scores, config.unit_mm))
        return [*shown, place_section(config, predicted, samples, nets.student, scores)]


def matched(positions: Tensor, batch: Batch) -> list[list[Matches]]:
    """The matches of every pair of every sample, from embeddings ``(N, D, h, w)``."""
    samples, pairs = batch["slices"].shape[:2]
    maps = positions.unflatten(0, (samples, pairs, 2))
    return [
        [
            matches(
                maps[b, p, 0],
                maps[b, p, 1],
                batch["slices"][b, p, 0, 0],
                planes_of(batch, b, p),
                discs_of(batch, b, p),
            )
            for p in range(pairs)
        ]
        for b in range(samples)
    ]


def measure_matching(found: Sequence[Sequence[Matches]], cells: int) -> list[Measured]:
    """How far matches end from the true place, and how many of ``cells`` positions come back."""
    every = [m for of_sample in found for m in of_sample]
    return [
        Measured(
            "match_distance",
            [_mean([m.error_mm for m in of_sample]) for of_sample in found],
            "mm",
            "lower",
            "distance of matched positions from the true place",
            chance=finite_mean([m.chance_mm for m in every]),
            # What someone can say who sees no anatomy: nothing has moved, or the middle.
            constant=min(_mean([m.same_mm for m in every]), _mean([m.middle_mm for m in every])),
        ),
        Measured(
            "cycle_consistency",
            [100 * _mean([m.returned for m in of_sample]) for of_sample in found],
            "%",
            "higher",
            "positions that come back after matching there and back",
            chance=100 * min(1.0, 9 / cells),
        ),
    ]


def matching_section(positions: Tensor, samples: Samples, scores: Scores) -> Section:
    """Scores, and the matches of a few samples' first pairs."""
    found = matched(positions, samples.batch)
    return Section(
        title="Matching positions between near slices",
        explanation=(
            "Two slices of one scan, a few millimetres apart and posed at random, are matched "
            "position by position through their features. The true place is straight across."
        ),
        scores=scores.of("match_distance", "cycle_consistency", "feature_variance", "feature_rank"),
        panels=tuple(
            _matches_panel(found[b][0], samples.batch, b, source)
            for b, source in enumerate(samples.scans[:_SHOWN_PAIRS])
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
            "Numbers: the best and the worst matches, in the slice and in its neighbour. Right "
            "ones end within two positions of the true place; the map shows how far off all are."
        ),
        left=slice_volume(images[0], planes[0], "slice"),
        right=slice_volume(images[1], planes[1], "near slice"),
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


def _vox(points_px: Array) -> Array:
    """(column, row) in pixels → voxels of :func:`slice_volume`."""
    return np.stack([points_px[:, 1], points_px[:, 0], np.zeros(len(points_px))], axis=-1)
