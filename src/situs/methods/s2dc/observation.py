"""What ``s2dc`` shows: places found again, how clearly, and what the features look like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from situs.methods.base import Batch, Method, Nets, Samples, Scores
from situs.methods.measured import Measured
from situs.methods.s2dc.colours import principal_colours
from situs.methods.s2dc.config import S2dcConfig
from situs.methods.s2dc.matching import PLANS, Matching, matching_of
from situs.methods.s2dc.views import from_crops
from situs.observation import MatchesPanel, MatrixPanel, OverlayPanel, Panel, Section, Volume
from situs.tensors import to_numpy
from situs.views.subvolume import crop_affine

_MATCHES = 128  # kept for one figure, whole slices of tokens first
_PLAN_TOKENS = 256  # above it, the transport plan is shown for one pair of slices only


class ObservedS2dc(Method):
    """What is asked of ``s2dc`` on held-out samples."""

    monitor = "match_accuracy"
    watched = "token features"
    config: S2dcConfig

    def predict(self, batch: Batch, nets: Nets) -> Matching:
        """Both sides encoded by the student, which is what is exported, and matched."""
        return matching_of(self.config, batch, nets.student)

    def measure(self, samples: Samples, predicted: Matching) -> list[Measured]:
        """Places found again, how clearly, and crops recognised among all crops."""
        return predicted.measure()

    def features(self, predicted: Matching) -> Tensor:
        """Features of the tokens inside the scan."""
        return predicted.near.features.flatten(2).mT[predicted.inside]

    def sections(
        self, samples: Samples, predicted: Matching, nets: Nets, scores: Scores
    ) -> list[Section]:
        """Matches, transport plan, sharpness and token colours, and crops."""
        volumes = [self._volumes(samples, b) for b in range(min(PLANS, len(samples.items)))]
        still, still_mm = predicted.standing_still()
        found = [
            Section(
                title="Places found again",
                explanation=(
                    "A region was turned, scaled, shifted and changed in intensity. Each of its "
                    f"tokens ({' × '.join(map(str, predicted.size))} voxels) looks for itself in "
                    "the moved copy, by feature similarity alone. For scale: to say that nothing "
                    f"moved would be right for {still:.0f} % of them and wrong by {still_mm:.1f} "
                    "mm."
                ),
                scores=scores.of("match_accuracy", "match_error"),
                panels=(
                    *(_arrows(predicted, b, pair) for b, pair in enumerate(volumes)),
                    _plan_panel(predicted),
                ),
            ),
            _structures(predicted, volumes, scores),
        ]
        if predicted.crops is not None:
            found.append(_crops(predicted.crops, scores))
        return found

    def warnings(
        self, samples: Samples, predicted: Matching, scores: Scores, step: int
    ) -> tuple[str, ...]:
        """Where nothing moved would be the better answer, or the transport did not converge."""
        found, still = scores["match_accuracy"].value, predicted.standing_still()[0]
        said = []
        if step > 0 and found <= still:
            said.append(
                f"places are found no more often ({found:.0f} %) than by assuming that nothing "
                f"moved ({still:.0f} %): train longer, take a finer stage, or enlarge "
                "motion.translation."
            )
        if bool(((predicted.plan[:, :-1].sum(-1) - 1).abs() > 0.05).any()):
            said.append(
                "the transport did not converge within its iterations: raise iterations or "
                "temperature."
            )
        return tuple(said)

    def _volumes(self, samples: Samples, b: int) -> tuple[Volume, Volume]:
        """A sample's region and its moved copy."""
        batch, source, grid = samples.batch, samples.scans[b], self.config.grid
        affine = crop_affine(source.affine, batch["start_vox"][b].tolist())
        near, far = (from_crops(batch[k][b], grid)[0].cpu().numpy() for k in ("source", "moved"))
        return Volume(near, affine, source.key), Volume(far, affine, f"{source.key}, moved")


def _structures(
    seen: Matching, volumes: Sequence[tuple[Volume, Volume]], scores: Scores
) -> Section:
    clear = torch.where(seen.inside, seen.sharpness, 0.0)
    here, there = principal_colours(seen.near.features, seen.far.features)
    panels: list[Panel] = []
    for b, (region, moved) in enumerate(volumes):
        affine = _token_affine(seen, region)
        panels.append(
            OverlayPanel(
                title=f"Sharpness in region {b + 1}",
                caption="Bright where one place of the moved copy stands out as the match.",
                volume=region,
                overlay=to_numpy(clear[b].reshape(seen.grid)),
                overlay_affine=affine,
            )
        )
        panels.extend(
            OverlayPanel(
                title=f"Features as colours, {name} {b + 1}",
                caption="Three principal components as red, green and blue. The same tissue "
                "should keep its colour in the moved copy.",
                volume=volume,
                overlay=to_numpy(colours[b]),
                overlay_affine=affine,
                style="colours",
            )
            for name, volume, colours in (("region", region, here), ("moved copy", moved, there))
        )
    return Section(
        title="Structures",
        explanation=(
            "How clear is each match, and which places look alike to the network? Tokens of one "
            "structure should share a colour, different structures should not."
        ),
        scores=scores.of("sharpness", "feature_rank", "feature_variance"),
        panels=tuple(panels),
    )


def _crops(similarity: Tensor, scores: Scores) -> Section:
    few = min(24, len(similarity))
    return Section(
        title="Crops recognised",
        explanation=(
            f"Each of {len(similarity)} crops looks for its own augmented copy among the copies "
            "of all crops."
        ),
        scores=scores.of("crop_accuracy"),
        panels=(
            MatrixPanel(
                title="Similarity of crops and copies",
                caption="Rows are crops, columns their augmented copies.",
                predicted=to_numpy(similarity[:few, :few]),
                true=np.eye(few),
                unit="",
            ),
        ),
    )


def _arrows(seen: Matching, b: int, pair: tuple[Volume, Volume]) -> MatchesPanel:
    matched = seen.matched[b].nonzero()[:, 0]
    place = matched % seen.grid[2]
    fullest = torch.bincount(place, minlength=seen.grid[2])[place].argsort(
        descending=True, stable=True
    )
    picked = matched[fullest[:_MATCHES].sort().values]
    return MatchesPanel(
        title=f"Matches of region {b + 1}",
        caption="Numbers: the places that are found best and worst, in the region and in the moved "
        "copy. The map shows how far off every place of the slice is.",
        left=pair[0],
        right=pair[1],
        left_vox=seen.to_vox(seen.centres[picked]),
        predicted_vox=seen.to_vox(seen.predicted[b, picked]),
        true_vox=seen.to_vox(seen.true[b, picked]),
        right_or_wrong=seen.right[b, picked].cpu().numpy(),
    )


def _plan_panel(seen: Matching) -> MatrixPanel:
    """The transport plan of the sample, and of the slices, that hold most true matches."""
    matches = seen.problem.matches[: len(seen.plan)]
    b = int(matches.flatten(1).sum(1).argmax())
    rows = columns = torch.arange(int(np.prod(seen.grid)), device=matches.device)
    where = ""
    if len(rows) > _PLAN_TOKENS:
        near, far = fullest_slices(matches[b], seen.grid)
        rows, columns = (rows.reshape(seen.grid)[:, :, at].flatten() for at in (near, far))
        where = f", of the slices that share most matches ({near + 1} and {far + 1})"
    return MatrixPanel(
        title=f"Transport plan of region {b + 1}",
        caption=(
            f"Rows are tokens of the region, columns tokens of the moved copy{where}. Where every "
            "match is right and certain, the plan equals the true one."
        ),
        predicted=to_numpy(seen.plan[b][rows[:, None], columns]),
        true=to_numpy(matches[b][rows[:, None], columns]),
        unit="",
    )


def fullest_slices(matches: Tensor, grid: tuple[int, int, int]) -> tuple[int, int]:
    """Slices of the region and of the moved copy that share most of ``matches (N, N)``.

    The middle slice of one may have moved out of the other's, and then shares none.
    """
    x, y, z = grid
    shared = matches.reshape(x * y, z, x * y, z).sum((0, 2))
    near, far = divmod(int(shared.argmax()), z)
    return near, far


def _token_affine(seen: Matching, volume: Volume) -> npt.NDArray[np.float64]:
    """Affine of the token grid: a token's centre is the centre of the voxels it spans."""
    size = np.asarray(seen.size, dtype=np.float64)
    affine = crop_affine(volume.affine, ((size - 1) / 2).tolist())
    affine[:3, :3] = affine[:3, :3] * size
    return affine
