"""What ``planes`` shows: lines over images and places through stacks."""

from __future__ import annotations

import numpy as np

from situs.methods.base import Batch, Method, Nets, Samples, Scores
from situs.methods.measured import Measured
from situs.methods.planes.config import PlanesConfig
from situs.methods.planes.heads import predict
from situs.methods.planes.planning_section import measure_planning, planned_section
from situs.methods.planes.predictions import (
    Lines,
    Predictions,
    lines_panel,
    predictions,
    truth,
)
from situs.methods.planes.scoring import chance_line_errors, line_errors, measured
from situs.methods.planes.stacks import stack_curve
from situs.methods.preview import WholeScans
from situs.methods.slices import measure_places
from situs.observation import LinesPanel, ScatterPanel, Section

_SHOWN = 4


class ObservedPlanes(Method):
    """What is asked of ``planes`` on held-out samples."""

    monitor = "line_distance"
    config: PlanesConfig

    def predict(self, batch: Batch, nets: Nets) -> Predictions:
        """Heat maps, the lines fitted to them, and places."""
        return predictions(self.config, predict(nets.student, batch["images"].flatten(0, 1)), batch)

    def measure(self, samples: Samples, predicted: Predictions) -> list[Measured]:
        """Fitted lines, places and planned planes beside the truth."""
        batch = samples.batch
        places = measure_places(
            "location_error",
            "error of a slice's place in its stack",
            _places(batch),
            predicted.location,
            np.zeros(predicted.location.shape),
        )
        return [*measure_lines(predicted, batch), places, *measure_planning(predicted, samples)]

    def sections(
        self, samples: Samples, predicted: Predictions, nets: Nets, scores: Scores
    ) -> list[Section]:
        """Lines, places and planned planes; the network draws the curve through a whole stack."""
        config, batch, whole = self.config, samples.batch, WholeScans()
        shown = range(min(_SHOWN, len(samples.items)))
        return [
            Section(
                title="Lines where other planes cross a slice",
                explanation=(
                    "For each slice the network draws where the study's other planes cross it; the "
                    "line fitted to its heat map is compared with the one computed from the scan's "
                    "geometry. Chance takes the line of another slice; the constant baseline is "
                    "the mean line of each pair of roles, whatever the image shows."
                ),
                scores=scores.of("line_angle", "line_distance"),
                panels=tuple(_lines(config, predicted, samples, b, whole) for b in shown),
            ),
            Section(
                title="Place of a slice in its stack",
                explanation=(
                    "The network says how far through its stack a slice lies, from the image."
                ),
                scores=scores.of("location_error"),
                panels=(
                    _scatter(config, predicted, batch),
                    stack_curve(config, nets.student, samples.items[0], batch["images"]),
                ),
            ),
            planned_section(config, predicted, samples, whole, scores),
        ]

    def warnings(
        self, samples: Samples, predicted: Predictions, scores: Scores, step: int
    ) -> tuple[str, ...]:
        """Says so where no line can be seen at all."""
        if samples.batch["visible"].any():
            return ()
        return (
            "no line is visible in any held-out slice: the studies have too few recognised "
            "roles; look at them with 'situs studies', or set studies=virtual",
        )


def measure_lines(found: Predictions, batch: Batch) -> list[Measured]:
    """Fitted beside true lines, in degrees and mm."""
    true = truth(batch)
    samples, count, roles = true.visible.shape
    flat = true.lines.reshape(samples * count, roles, 3)
    visible, pixel = true.visible.reshape(-1, roles), true.pixel_mm.flatten()
    errors = line_errors(found.lines.reshape(flat.shape), flat, visible, true.shape, pixel)
    chance = chance_line_errors(flat, visible, true.shape, pixel)
    constant = line_errors(true.constant.reshape(flat.shape), flat, visible, true.shape, pixel)
    labels = (
        "angle between predicted and true line",
        "distance of the true line from the predicted one",
    )
    return measured("line", labels, errors, chance, constant, samples)


def _lines(
    config: PlanesConfig, found: Predictions, samples: Samples, b: int, whole: WholeScans
) -> LinesPanel:
    """The image of a sample that most lines cross."""
    true = truth(samples.batch)
    image = int(true.visible[b].sum(-1).argmax())
    shown = np.flatnonzero(true.visible[b, image])
    names = tuple(config.roles[r] for r in shown)
    sure = ", ".join(
        f"{name} {100 * found.confidence[b, image, r]:.0f} %"
        for name, r in zip(names, shown, strict=True)
    )
    at = b, image, shown
    lines = Lines(found.lines[at], true.lines[at], found.heatmaps[at], names)
    caption = f"Heat map and fitted line beside the true line. Confidence: {sure}."
    return lines_panel(samples, (b, image), whole, lines, "Lines in a slice of", caption)


def _places(batch: Batch) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """True places ``(B, K)``, NaN for slices without one."""
    located, location = batch["located"].cpu().numpy(), batch["location"].cpu().numpy()
    return np.where(located, location, np.nan)


def _scatter(config: PlanesConfig, found: Predictions, batch: Batch) -> ScatterPanel:
    located = batch["located"].cpu().numpy()
    roles = batch["role"].cpu().numpy()[located].tolist()
    return ScatterPanel(
        title="Predicted against true place of slices in their stacks",
        caption="One point a held-out slice; 0 % is the first slice of its stack.",
        predicted=100 * found.location[located],
        true=100 * batch["location"].cpu().numpy()[located],
        unit="%",
        quantity="place in the stack",
        groups=tuple(config.roles[r] if r >= 0 else "no role" for r in roles),
    )
