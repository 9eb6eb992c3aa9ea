"""What ``planes`` shows: lines over images and places through stacks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from situs.geometry.line_fit import fit_line
from situs.methods.base import Batch, Network
from situs.methods.planes.config import PlanesConfig
from situs.methods.planes.heads import Predicted
from situs.methods.planes.planning_section import planned_section
from situs.methods.planes.predictions import Seen, each, mean, pixel_affines
from situs.methods.planes.scoring import (
    chance_line_errors,
    constant_lines,
    line_errors,
)
from situs.methods.planes.stacks import stack_curve
from situs.methods.preview import WholeScans
from situs.observation import (
    LinesPanel,
    Observation,
    Panel,
    ScatterPanel,
    Score,
    Section,
)
from situs.views.source import Source

Array = npt.NDArray[np.float64]

_SHOWN = 4


def observe(
    config: PlanesConfig,
    predicted: Predicted,
    batch: Batch,
    network: Network,
    scans: Sequence[Sequence[Source]],
    step: int,
) -> Observation:
    """Scores and panels of one batch.

    Args:
        config: Of the method.
        predicted: Of all images of the batch, ``(B·K, …)``.
        batch: What was sampled.
        network: For the curve through a whole stack.
        scans: The scan behind each slice of each sample; a sample goes by its first slice's.
        step: Optimiser steps done.
    """
    leading = batch["images"].shape[:2]
    heatmaps = predicted.heatmaps.float().cpu().numpy()
    lines, confidence = fit_line(heatmaps, (1.0, 1.0), config.sigma_px)
    true = batch["lines"].cpu().numpy().astype(np.float64)
    visible = batch["visible"].cpu().numpy()
    constant = constant_lines(
        true.reshape(-1, *true.shape[2:]),
        visible.reshape(-1, visible.shape[2]),
        (heatmaps.shape[-2], heatmaps.shape[-1]),
        batch["role"].cpu().numpy().ravel(),
    )
    seen = Seen(
        images=batch["images"][:, :, 0].cpu().numpy(),
        heatmaps=heatmaps.reshape(*leading, *heatmaps.shape[1:]),
        lines=lines.reshape(*leading, *lines.shape[1:]),
        confidence=confidence.reshape(*leading, -1),
        true=true,
        visible=visible,
        pixel_mm=batch["pixel_mm"].cpu().numpy(),
        affine=pixel_affines(batch),
        constant=constant.reshape(true.shape),
    )
    sources = [slices[0] for slices in scans]
    whole = WholeScans()
    return Observation(
        method="planes",
        step=step,
        sections=(
            _lines(config, seen, scans, whole),
            _location(config, predicted, batch, network, sources),
            planned_section(config, seen, batch, scans, whole),
        ),
        warnings=_warnings(seen),
        scans=tuple(s.key for s in sources),
        modalities=tuple(s.modality for s in sources),
        spacings=tuple(s.spacing for s in sources),
    )


def _lines(
    config: PlanesConfig, seen: Seen, scans: Sequence[Sequence[Source]], whole: WholeScans
) -> Section:
    samples, count, roles = seen.visible.shape
    shape = (seen.images.shape[-2], seen.images.shape[-1])
    true, visible = seen.true.reshape(samples * count, -1, 3), seen.visible.reshape(-1, roles)
    pixel = seen.pixel_mm.flatten()
    errors = line_errors(seen.lines.reshape(true.shape), true, visible, shape, pixel)
    chance = chance_line_errors(true, visible, shape, pixel)
    constant = line_errors(seen.constant.reshape(true.shape), true, visible, shape, pixel)
    by_sample = (samples, count * roles)
    return Section(
        title="Lines where other planes cut a slice",
        explanation=(
            "For each slice the network draws where the study's other planes cut it; the line "
            "fitted to its heat map is compared with the one computed from the scan's geometry. "
            "Chance takes the line of another slice; the constant baseline is the mean line of "
            "each pair of roles, whatever the image shows."
        ),
        scores=(
            Score(
                "line_angle",
                mean(errors.angle_deg),
                "°",
                "lower",
                chance=mean(chance.angle_deg),
                constant=mean(constant.angle_deg),
                label="angle between predicted and true line",
                samples=each(errors.angle_deg.reshape(by_sample)),
            ),
            Score(
                "line_distance",
                mean(errors.distance_mm),
                "mm",
                "lower",
                chance=mean(chance.distance_mm),
                constant=mean(constant.distance_mm),
                label="distance of the true line from the predicted one",
                samples=each(errors.distance_mm.reshape(by_sample)),
            ),
        ),
        panels=tuple(
            _lines_panel(config, seen, b, scans[b], whole) for b in range(min(_SHOWN, samples))
        ),
    )


def _lines_panel(
    config: PlanesConfig, seen: Seen, sample: int, scans: Sequence[Source], whole: WholeScans
) -> LinesPanel:
    image = int(seen.visible[sample].sum(-1).argmax())
    shown = np.flatnonzero(seen.visible[sample, image])
    pixel = float(seen.pixel_mm[sample, image])
    sure = ", ".join(
        f"{config.roles[r]} {100 * seen.confidence[sample, image, r]:.0f} %" for r in shown
    )
    return LinesPanel(
        title=f"Lines in a slice of {scans[image].key}",
        caption=f"Heat map and fitted line beside the true line. Confidence: {sure}.",
        image=seen.images[sample, image],
        spacing=(pixel, pixel),
        predicted=seen.lines[sample, image, shown],
        true=seen.true[sample, image, shown],
        heatmaps=seen.heatmaps[sample, image, shown],
        names=tuple(config.roles[r] for r in shown),
        affine=seen.affine[sample, image],
        volume=whole.of(scans[image]).volume,
    )


def _location(
    config: PlanesConfig,
    predicted: Predicted,
    batch: Batch,
    network: Network,
    sources: Sequence[Source],
) -> Section:
    located = batch["located"].cpu().numpy()
    true = np.where(located, batch["location"].cpu().numpy(), np.nan)
    found = predicted.location.float().cpu().numpy().reshape(true.shape).astype(np.float64)
    error = 100 * np.abs(found - true)
    places = true[located]
    panels: list[Panel] = [
        ScatterPanel(
            title="Predicted against true place of slices in their stacks",
            caption="One point a held-out slice; 0 % is the first slice of its stack.",
            predicted=100 * found[located],
            true=100 * places,
            unit="%",
            quantity="place in the stack",
            groups=_role_names(config, batch["role"].cpu().numpy()[located]),
        )
    ]
    curve = stack_curve(config, network, sources[0], batch["images"])
    return Section(
        title="Place of a slice in its stack",
        explanation="The network says how far through its stack a slice lies, from the image.",
        scores=(
            Score(
                "location_error",
                mean(error),
                "%",
                "lower",
                chance=float(100 * np.abs(places[:, None] - places).mean())
                if len(places)
                else None,
                constant=float(100 * np.abs(places - np.median(places)).mean())
                if len(places)
                else None,
                label="error of a slice's place in its stack",
                samples=each(error),
            ),
        ),
        panels=(*panels, curve),
    )


def _warnings(seen: Seen) -> tuple[str, ...]:
    if not seen.visible.any():
        return (
            "no line is visible in any held-out slice: the studies have too few recognised "
            "roles; look at them with 'situs studies', or set studies=virtual",
        )
    return ()


def _role_names(config: PlanesConfig, roles: npt.NDArray[np.integer]) -> tuple[str, ...]:
    return tuple(config.roles[r] if r >= 0 else "no role" for r in roles.tolist())
