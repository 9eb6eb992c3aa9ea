"""Methods of single slices: their views, the geometry that goes with them, places in a stack.

Ours; what a method asks of its slices, and after whom, is said in its own modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveFloat, PositiveInt

from situs.errors import ConfigError
from situs.geometry import Plane
from situs.methods.base import Batch
from situs.methods.config import MethodConfig
from situs.methods.measured import Measured, finite_mean
from situs.observation import CurvePanel
from situs.views.intensity import IntensityConfig
from situs.views.slices import PoseConfig, ViewGrid, fitted_grid
from situs.views.source import Source

Array = npt.NDArray[np.float64]


class SliceConfig(MethodConfig):
    """Of methods that are shown slices, resampled to views of one size.

    Attributes:
        size: (rows, columns) of a slice's view; None fits the data.
        spacing_mm: Of the view's pixels; None fits the data.
        pose: In-plane augmentation, drawn for each view on its own.
        intensity: Changes of intensity, likewise; None for none.
    """

    size: tuple[PositiveInt, PositiveInt] | None = None
    spacing_mm: PositiveFloat | None = None
    pose: PoseConfig = Field(default_factory=PoseConfig)
    intensity: IntensityConfig | None = Field(default_factory=IntensityConfig)

    @property
    def grid(self) -> ViewGrid:
        """Pixels of a view.

        Raises:
            ConfigError: While they are left to the data.
        """
        if self.size is None or self.spacing_mm is None:
            raise ConfigError(
                "'size' and 'spacing_mm' are left to the data: call resolve_for_data(sources) first"
            )
        return ViewGrid(self.size, self.spacing_mm)

    def filled(self, sources: Sequence[Source], part_mm: float | None, **values: Any) -> Self:
        """With size and spacing as they suit the scans, where they were left out.

        Args:
            sources: The scans.
            part_mm: Diameter of what is shown of a slice; None for all.
            values: Other fields, as they were decided.
        """
        grid = fitted_grid(sources)
        if part_mm is not None:
            grid = grid.about(part_mm)
        size, spacing_mm = self.size or grid.size, self.spacing_mm or grid.spacing_mm
        return self.model_copy(update={"size": size, "spacing_mm": spacing_mm, **values})


def plane_at(batch: Batch, images: str, *place: int) -> Plane:
    """The plane of one view.

    Args:
        batch: With ``origin_mm``, ``row_mm``, ``column_mm`` ``(…, 3)`` and ``pixel_mm (…)``.
        images: Name of the views in it, ``(…, C, rows, columns)``.
        place: Which one.
    """
    rows, columns = batch[images].shape[-2:]
    origin, row, column = (
        batch[name][place].cpu().numpy() for name in ("origin_mm", "row_mm", "column_mm")
    )
    pixel = float(batch["pixel_mm"][place])
    return Plane(origin, row, column, (rows, columns), (pixel, pixel))


def measure_places(
    name: str, label: str, true: Array, predicted: Array, groups: npt.NDArray[np.generic]
) -> Measured:
    """How far off the places of slices along their stacks are, in % of the way.

    Chance takes the place of any slice of the same group, the constant answer their median.

    Args:
        name: Of the score.
        label: Words for a reader.
        true: ``(B, K)`` from 0 to 1, NaN for slices without a place.
        predicted: ``(B, K)``.
        groups: ``(B, K)``, slices that can be compared.
    """
    error = 100 * np.abs(predicted - true)
    there = np.isfinite(true)
    places, of = true[there], groups[there]
    median = np.array([np.median(places[of == group]) for group in of])
    apart = np.abs(places[:, None] - places)[of[:, None] == of]
    return Measured(
        name,
        error,
        "%",
        "lower",
        label,
        chance=100 * apart.mean() if len(places) else None,
        constant=100 * np.abs(places - median).mean() if len(places) else None,
        value=finite_mean(error),
    )


def place_curve(
    stack: str, key: str, at: Array, true: Array, found: Array, where: str
) -> CurvePanel:
    """Places of the slices of one stack, in order.

    Args:
        stack: Its name.
        key: Of the scan.
        at: ``(S,)`` number of each slice.
        true: ``(S,)`` from 0 to 1.
        found: ``(S,)`` predicted.
        where: What a place is a place in, in words.
    """
    return CurvePanel(
        title=f"Places through the {stack} stack of {key}",
        caption="A straight rising line is right.",
        x=at,
        series=100 * np.stack([found, true]),
        names=("predicted", "true"),
        x_label="slice",
        y_label=f"place {where} (%)",
    )
