"""What the network was shown and what it said, as arrays that scores and figures are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from situs.geometry.line_fit import fit_line
from situs.methods.base import Batch, Samples
from situs.methods.planes.config import PlanesConfig
from situs.methods.planes.heads import Predicted
from situs.methods.planes.plan import PlannedPlane
from situs.methods.planes.scoring import constant_lines, plan_planes
from situs.methods.preview import WholeScans
from situs.methods.slices import plane_at
from situs.observation import LinesPanel
from situs.views.source import Source

Array = npt.NDArray[np.float64]


class Predictions(NamedTuple):
    """What the network says of B samples of K images, for R roles.

    ``heatmaps (B, K, R, rows, columns)``, the ``lines (B, K, R, 3)`` fitted to them with their
    ``confidence (B, K, R)``, the planes ``planned`` from them, ``location (B, K)``; and ``features
    (B·K, D)``.
    """

    heatmaps: Array
    lines: Array
    confidence: Array
    planned: Sequence[Sequence[PlannedPlane | None]]
    location: Array
    features: Tensor


class Truth(NamedTuple):
    """Of the same images: true ``lines (B, K, R, 3)``, which are ``visible (B, K, R)``, and more.

    ``constant (B, K, R, 3)`` are the mean lines of each pair of roles, ``pixel_mm (B, K)``,
    ``shape`` (rows, columns).
    """

    lines: Array
    visible: npt.NDArray[np.bool_]
    constant: Array
    pixel_mm: Array
    shape: tuple[int, int]


class Lines(NamedTuple):
    """Of L roles in one image: ``predicted`` and ``true (L, 3)``, heat maps or none, names."""

    predicted: Array
    true: Array
    heatmaps: Array
    names: tuple[str, ...]


def predictions(config: PlanesConfig, out: Predicted, batch: Batch) -> Predictions:
    """Lines fitted to heat maps, by sample."""
    leading = batch["images"].shape[:2]
    heatmaps = out.heatmaps.float().cpu().numpy()
    lines, confidence = fit_line(heatmaps, (1.0, 1.0), config.sigma)
    lines = lines.reshape(*leading, *lines.shape[1:])
    confidence = confidence.reshape(*leading, -1)
    return Predictions(
        heatmaps=heatmaps.reshape(*leading, *heatmaps.shape[1:]),
        lines=lines,
        confidence=confidence,
        planned=plan_planes(batch, lines, confidence),
        location=out.location.double().cpu().numpy().reshape(leading),
        features=out.features,
    )


def truth(batch: Batch) -> Truth:
    """True and mean lines of a batch."""
    lines = batch["lines"].cpu().numpy().astype(np.float64)
    visible = batch["visible"].cpu().numpy()
    rows, columns = batch["images"].shape[-2:]
    constant = constant_lines(
        lines.reshape(-1, *lines.shape[2:]),
        visible.reshape(-1, visible.shape[2]),
        (rows, columns),
        batch["role"].cpu().numpy().ravel(),
    )
    pixel_mm = batch["pixel_mm"].cpu().numpy()
    return Truth(lines, visible, constant.reshape(lines.shape), pixel_mm, (rows, columns))


def lines_panel(
    samples: Samples,
    place: tuple[int, int],
    whole: WholeScans,
    lines: Lines,
    title: str,
    caption: str,
) -> LinesPanel:
    """An image with lines over it, and where it lies in its scan.

    Args:
        samples: What was sampled.
        place: Sample and image.
        whole: The scans.
        lines: Over the image.
        title: Of the panel, before the scan's name.
        caption: Of the panel.
    """
    plane, scan = plane_at(samples.batch, "images", *place), scan_of(samples, *place)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = (
        plane.row_mm * plane.spacing[1],
        plane.column_mm * plane.spacing[0],
    )
    affine[:3, 2], affine[:3, 3] = plane.normal_mm, plane.origin_mm
    return LinesPanel(
        title=f"{title} {scan.key}",
        caption=caption,
        image=samples.batch["images"][place][0].cpu().numpy(),
        spacing=plane.spacing,
        predicted=lines.predicted,
        true=lines.true,
        heatmaps=lines.heatmaps,
        names=lines.names,
        affine=affine,
        volume=whole.of(scan).volume,
    )


def scan_of(samples: Samples, sample: int, image: int) -> Source:
    """The scan that an image was cut from."""
    scans = samples.sources(sample)
    return scans[min(image, len(scans) - 1)]
