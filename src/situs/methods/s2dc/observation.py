"""What ``s2dc`` shows: places found again, how clearly, and what the features look like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from situs.methods.base import Batch, Network
from situs.methods.monitors import collapse_warnings, effective_rank, feature_variance
from situs.methods.projection import pooled
from situs.methods.s2dc.colours import principal_colours
from situs.methods.s2dc.config import S2dcConfig
from situs.methods.s2dc.heads import heads_of
from situs.methods.s2dc.losses import sharpness
from situs.methods.s2dc.matching import Look, look, to_numpy
from situs.methods.s2dc.tokens import encode_crops
from situs.methods.s2dc.views import from_crops
from situs.observation import (
    MatchesPanel,
    MatrixPanel,
    Observation,
    OverlayPanel,
    Panel,
    Score,
    Section,
    Volume,
)
from situs.views.source import Source
from situs.views.subvolume import crop_affine

_SHOWN = 3  # samples that get figures of their own
_ARROWS = 24  # matches drawn in one figure
_PLAN_TOKENS = 256  # above it, the transport plan is shown for the middle slice only
_REMEDY = (
    "lower temperature, raise weights.p2p against weights.p2s, or train on more crops at once."
)


def observe(
    config: S2dcConfig, batch: Batch, student: Network, sources: Sequence[Source], step: int
) -> Observation:
    """Scores and pictures of one held-out batch; the student encodes both sides.

    Args:
        config: The method's configuration.
        batch: What was sampled.
        student: The network.
        sources: The scan behind each sample.
        step: Optimiser steps done.
    """
    seen = look(config, batch, student)
    plan = seen.log_plan(_SHOWN, student)
    features = seen.near.features.flatten(2).mT[seen.inside]
    variance, rank = float(feature_variance(features)), float(effective_rank(features))
    volumes = [_volumes(config, batch, b, source) for b, source in enumerate(sources[:_SHOWN])]
    accuracy = seen.accuracy()
    still, still_mm = seen.standing_still()
    sections = [
        Section(
            title="Places found again",
            explanation=(
                "A region was turned, scaled, shifted and changed in intensity. Each of its "
                f"tokens ({' × '.join(map(str, seen.size))} voxels) looks for itself in the moved "
                "copy, by feature similarity alone. For scale: to say that nothing moved would be "
                f"right for {still:.0f} % of them and wrong by {still_mm:.1f} mm."
            ),
            scores=(accuracy, seen.error()),
            panels=(
                *(_arrows(seen, b, pair) for b, pair in enumerate(volumes)),
                _plan_panel(seen, plan),
            ),
        ),
        _structures(seen, volumes, rank),
    ]
    if "augmented" in batch:
        sections.append(_crops(seen, batch, student))
    return Observation(
        method="s2dc",
        step=step,
        sections=tuple(sections),
        warnings=(
            *collapse_warnings(variance, rank, _REMEDY),
            *_warnings(accuracy.value, still, plan, step),
        ),
        scans=tuple(source.key for source in sources),
        modalities=tuple(source.modality for source in sources),
        spacings=tuple(source.spacing for source in sources),
    )


def _structures(seen: Look, volumes: Sequence[tuple[Volume, Volume]], rank: float) -> Section:
    sharp = sharpness(seen.similarity, seen.problem.valid)
    clear = torch.where(seen.inside, sharp, 0.0)
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
        scores=(
            seen.score("sharpness", sharp, "σ", "how far the best match stands out"),
            Score(
                "feature_rank",
                rank,
                "",
                "higher",
                collapsed=1.0,
                label="directions that token features use",
            ),
        ),
        panels=tuple(panels),
    )


def _crops(seen: Look, batch: Batch, student: Network) -> Section:
    heads = heads_of(student.heads)
    chosen, crops = batch["augmented_crop"], seen.near.crops
    picked = crops.gather(1, chosen[..., None].expand(-1, -1, crops.shape[-1]))
    copies = pooled(encode_crops(batch["augmented"].flatten(0, 1), student.backbone))
    similarity = heads.crops(picked.flatten(0, 1)) @ heads.crops(copies).mT
    itself = torch.arange(len(similarity), device=similarity.device)
    right = 100 * (similarity.argmax(1) == itself).float().reshape(chosen.shape).mean(1)
    few = min(24, len(similarity))
    return Section(
        title="Crops recognised",
        explanation=(
            f"Each of {len(similarity)} crops looks for its own augmented copy among the copies "
            "of all crops."
        ),
        scores=(
            Score(
                "crop_accuracy",
                float(right.mean()),
                "%",
                "higher",
                chance=100 / len(similarity),
                label="own copy is the most similar",
                samples=tuple(right.tolist()),
            ),
        ),
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


def _warnings(found: float, still: float, plan: Tensor, step: int) -> list[str]:
    warnings = []
    if step > 0 and found <= still:
        warnings.append(
            f"places are found no more often ({found:.0f} %) than by assuming that nothing moved "
            f"({still:.0f} %): train longer, take a finer stage, or enlarge motion.translation."
        )
    rows = plan[:, :-1].exp().sum(-1)
    if bool(((rows - 1).abs() > 0.05).any()):
        warnings.append(
            "the transport did not converge within its iterations: raise iterations or temperature."
        )
    return warnings


def _arrows(seen: Look, b: int, pair: tuple[Volume, Volume]) -> MatchesPanel:
    matched = seen.matched[b].nonzero()[:, 0]
    spread = np.linspace(0, max(0, len(matched) - 1), min(_ARROWS, len(matched))).round()
    picked = matched[torch.as_tensor(spread, dtype=torch.long, device=matched.device)]
    return MatchesPanel(
        title=f"Matches of region {b + 1}",
        caption="From each place in the region to where the network finds it in the moved copy.",
        left=pair[0],
        right=pair[1],
        left_vox=seen.to_vox(seen.centres[picked]),
        predicted_vox=seen.to_vox(seen.predicted[b, picked]),
        true_vox=seen.to_vox(seen.true[b, picked]),
        right_or_wrong=seen.right[b, picked].cpu().numpy(),
    )


def _plan_panel(seen: Look, plan: Tensor) -> MatrixPanel:
    tokens = torch.arange(int(np.prod(seen.grid)), device=plan.device)
    where = ""
    if len(tokens) > _PLAN_TOKENS:
        tokens = tokens.reshape(seen.grid)[:, :, seen.grid[2] // 2].flatten()
        where = " of the middle slice"
    return MatrixPanel(
        title="Transport plan of region 1",
        caption=(
            f"Rows are tokens of the region, columns tokens of the moved copy{where}. Where every "
            "match is right and certain, the plan equals the true one."
        ),
        predicted=to_numpy(plan[0].exp()[tokens[:, None], tokens]),
        true=to_numpy(seen.problem.matches[0][tokens[:, None], tokens]),
        unit="",
    )


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
