"""What ``s2dc`` shows: places found again, how clearly, and what the features look like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from situs.methods.base import Batch, Samples, Scores
from situs.methods.measured import Measured
from situs.methods.s2dc.colours import principal_colours
from situs.methods.s2dc.config import S2dcConfig
from situs.methods.s2dc.matching import PLANS, Look, to_numpy
from situs.methods.s2dc.views import from_crops
from situs.observation import MatchesPanel, MatrixPanel, OverlayPanel, Panel, Section, Volume
from situs.views.source import Source
from situs.views.subvolume import crop_affine

_MATCHES = 128  # kept for one figure, whole slices of tokens first
_PLAN_TOKENS = 256  # above it, the transport plan is shown for one pair of slices only


def measure(seen: Look, batch: Batch) -> list[Measured]:
    """Places found again, how clearly, and crops recognised among all crops."""
    found = seen.measure()
    if seen.crops is not None:
        itself = torch.arange(len(seen.crops), device=seen.crops.device)
        right = 100 * (seen.crops.argmax(1) == itself).float()
        found.append(
            Measured(
                "crop_accuracy",
                right.reshape(batch["augmented_crop"].shape),
                "%",
                "higher",
                "own copy is the most similar",
                chance=100 / len(itself),
            )
        )
    return found


def sections(config: S2dcConfig, seen: Look, samples: Samples, scores: Scores) -> list[Section]:
    """Pictures of held-out regions; the student encoded both sides.

    Args:
        config: The method's configuration.
        seen: What it says of them.
        samples: What was sampled, and from which scans.
        scores: All that was measured.
    """
    volumes = [
        _volumes(config, samples.batch, b, source) for b, source in enumerate(samples.scans[:PLANS])
    ]
    still, still_mm = seen.standing_still()
    found = [
        Section(
            title="Places found again",
            explanation=(
                "A region was turned, scaled, shifted and changed in intensity. Each of its "
                f"tokens ({' × '.join(map(str, seen.size))} voxels) looks for itself in the moved "
                "copy, by feature similarity alone. For scale: to say that nothing moved would be "
                f"right for {still:.0f} % of them and wrong by {still_mm:.1f} mm."
            ),
            scores=scores.of("match_accuracy", "match_error"),
            panels=(
                *(_arrows(seen, b, pair) for b, pair in enumerate(volumes)),
                _plan_panel(seen),
            ),
        ),
        _structures(seen, volumes, scores),
    ]
    if seen.crops is not None:
        found.append(_crops(seen.crops, scores))
    return found


def warnings(seen: Look, scores: Scores, step: int) -> tuple[str, ...]:
    """Where nothing moved would be the better answer, or the transport did not converge."""
    found, still = scores["match_accuracy"].value, seen.standing_still()[0]
    said = []
    if step > 0 and found <= still:
        said.append(
            f"places are found no more often ({found:.0f} %) than by assuming that nothing moved "
            f"({still:.0f} %): train longer, take a finer stage, or enlarge motion.translation."
        )
    if bool(((seen.plan[:, :-1].sum(-1) - 1).abs() > 0.05).any()):
        said.append(
            "the transport did not converge within its iterations: raise iterations or temperature."
        )
    return tuple(said)


def _structures(seen: Look, volumes: Sequence[tuple[Volume, Volume]], scores: Scores) -> Section:
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


def _arrows(seen: Look, b: int, pair: tuple[Volume, Volume]) -> MatchesPanel:
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


def _plan_panel(seen: Look) -> MatrixPanel:
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


def _volumes(config: S2dcConfig, batch: Batch, b: int, source: Source) -> tuple[Volume, Volume]:
    affine = crop_affine(source.affine, batch["start_vox"][b].tolist())
    near, far = (
        from_crops(batch[key][b], config.grid)[0].cpu().numpy() for key in ("source", "moved")
    )
    return Volume(near, affine, source.key), Volume(far, affine, f"{source.key}, moved")


def _token_affine(seen: Look, volume: Volume) -> npt.NDArray[np.float64]:
    """Affine of the token grid: a token's centre is the centre of the voxels it spans."""
    size = np.asarray(seen.size, dtype=np.float64)
    affine = crop_affine(volume.affine, ((size - 1) / 2).tolist())
    affine[:3, :3] = affine[:3, :3] * size
    return affine
