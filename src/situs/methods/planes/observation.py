"""What ``planes`` shows: lines over images and places through stacks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from situs.methods.base import Batch, Network, Samples, Scores
from situs.methods.measured import Measured, finite_mean
from situs.methods.planes.config import PlanesConfig
from situs.methods.planes.planning_section import planned_section
from situs.methods.planes.predictions import Predictions, pixel_affines, truth
from situs.methods.planes.scoring import chance_line_errors, line_errors
from situs.methods.planes.stacks import stack_curve
from situs.methods.preview import WholeScans
from situs.observation import LinesPanel, ScatterPanel, Section

_SHOWN = 4


def measure_lines(found: Predictions, batch: Batch) -> list[Measured]:
    """Fitted beside true lines, in degrees and mm."""
    true = truth(batch)
    samples, count, roles = true.visible.shape
    flat = true.lines.reshape(samples * count, roles, 3)
    visible, pixel = true.visible.reshape(-1, roles), true.pixel_mm.flatten()
    errors = line_errors(found.lines.reshape(flat.shape), flat, visible, true.shape, pixel)
    chance = chance_line_errors(flat, visible, true.shape, pixel)
    constant = line_errors(true.constant.reshape(flat.shape), flat, visible, true.shape, pixel)
    return [
        Measured(
            name,
            of.reshape(samples, -1),
            unit,
            "lower",
            label,
            chance=finite_mean(guess),
            constant=finite_mean(same),
            value=finite_mean(of),
        )
        for name, unit, label, of, guess, same in (
            (
                "line_angle",
                "°",
                "angle between predicted and true line",
                errors.angle_deg,
                chance.angle_deg,
                constant.angle_deg,
            ),
            (
                "line_distance",
                "mm",
                "distance of the true line from the predicted one",
                errors.distance_mm,
                chance.distance_mm,
                constant.distance_mm,
            ),
        )
    ]


def measure_places(found: Predictions, batch: Batch) -> list[Measured]:
    """Predicted beside true places in the stack."""
    located = batch["located"].cpu().numpy()
    true = np.where(located, batch["location"].cpu().numpy(), np.nan)
    error, places = 100 * np.abs(found.location - true), true[located]
    some = len(places) > 0
    return [
        Measured(
            "location_error",
            error,
            "%",
            "lower",
            "error of a slice's place in its stack",
            chance=100 * np.abs(places[:, None] - places).mean() if some else None,
            constant=100 * np.abs(places - np.median(places)).mean() if some else None,
            value=finite_mean(error),
        )
    ]


def sections(
    config: PlanesConfig, found: Predictions, samples: Samples, network: Network, scores: Scores
) -> list[Section]:
    """Lines, places and planned planes; the network draws the curve through a whole stack."""
    whole = WholeScans()
    return [
        Section(
            title="Lines where other planes cut a slice",
            explanation=(
                "For each slice the network draws where the study's other planes cut it; the line "
                "fitted to its heat map is compared with the one computed from the scan's "
                "geometry. Chance takes the line of another slice; the constant baseline is the "
                "mean line of each pair of roles, whatever the image shows."
            ),
            scores=scores.of("line_angle", "line_distance"),
            panels=tuple(
                _lines_panel(config, found, samples, b, whole)
                for b in range(min(_SHOWN, len(samples.items)))
            ),
        ),
        Section(
            title="Place of a slice in its stack",
            explanation="The network says how far through its stack a slice lies, from the image.",
            scores=scores.of("location_error"),
            panels=(
                _places_panel(config, found, samples.batch),
                stack_curve(config, network, samples.items[0], samples.batch["images"]),
            ),
        ),
        planned_section(config, found, samples, whole, scores),
    ]


def warnings(batch: Batch) -> tuple[str, ...]:
    """Says so where no line is visible."""
    if not batch["visible"].any():
        return (
            "no line is visible in any held-out slice: the studies have too few recognised "
            "roles; look at them with 'situs studies', or set studies=virtual",
        )
    return ()


def _lines_panel(
    config: PlanesConfig, found: Predictions, samples: Samples, sample: int, whole: WholeScans
) -> LinesPanel:
    batch, true = samples.batch, truth(samples.batch)
    image = int(true.visible[sample].sum(-1).argmax())
    shown = np.flatnonzero(true.visible[sample, image])
    scans = samples.sources(sample)
    scan = scans[min(image, len(scans) - 1)]
    pixel = float(true.pixel_mm[sample, image])
    sure = ", ".join(
        f"{config.roles[r]} {100 * found.confidence[sample, image, r]:.0f} %" for r in shown
    )
    return LinesPanel(
        title=f"Lines in a slice of {scan.key}",
        caption=f"Heat map and fitted line beside the true line. Confidence: {sure}.",
        image=batch["images"][sample, image, 0].cpu().numpy(),
        spacing=(pixel, pixel),
        predicted=found.lines[sample, image, shown],
        true=true.lines[sample, image, shown],
        heatmaps=found.heatmaps[sample, image, shown],
        names=tuple(config.roles[r] for r in shown),
        affine=pixel_affines(batch)[sample, image],
        volume=whole.of(scan).volume,
    )


def _places_panel(config: PlanesConfig, found: Predictions, batch: Batch) -> ScatterPanel:
    located = batch["located"].cpu().numpy()
    return ScatterPanel(
        title="Predicted against true place of slices in their stacks",
        caption="One point a held-out slice; 0 % is the first slice of its stack.",
        predicted=100 * found.location[located],
        true=100 * batch["location"].cpu().numpy()[located],
        unit="%",
        quantity="place in the stack",
        groups=_role_names(config, batch["role"].cpu().numpy()[located]),
    )


def _role_names(config: PlanesConfig, roles: npt.NDArray[np.integer]) -> tuple[str, ...]:
    return tuple(config.roles[r] if r >= 0 else "no role" for r in roles.tolist())
