"""Places of slices along their scans: predictions, scores, curve."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from situs.methods.base import Network, Samples, Scores
from situs.methods.measured import Measured, row_means
from situs.methods.sal.config import SalConfig
from situs.methods.sal.heads import Embedded, embed
from situs.methods.sal.views import position
from situs.methods.slices import measure_places, place_curve
from situs.observation import CurvePanel, ScatterPanel, Section
from situs.views.planes import cut_discs
from situs.views.scan_grid import grid_of
from situs.views.slices import unposed
from situs.views.source import Source

Array = npt.NDArray[np.float64]

_DIRECTIONS = ("sagittal", "coronal", "axial")
_NEIGHBOURS = 5
_CURVE_SLICES = 32


class Places(NamedTuple):
    """Of all slices of a batch: place, its prediction, stack direction, key of the scan."""

    true: Array
    predicted: Array
    axes: npt.NDArray[np.int64]
    owners: npt.NDArray[np.str_]


def places(config: SalConfig, out: Embedded, samples: Samples) -> Places:
    """Predicted beside true places of all slices."""
    batch = samples.batch
    true = batch["position"].flatten().cpu().numpy().astype(np.float64)
    axes = batch["axis"].flatten().cpu().numpy()
    owners = np.repeat([s.key for s in samples.scans], batch["position"][0].numel())
    if config.position == "regress":
        predicted = out.slices.gather(1, batch["axis"].flatten()[:, None])[:, 0].cpu().numpy()
    else:
        predicted = _from_neighbours(out.slices, out.slices, true, axes, owners, axes, owners)
    return Places(true, predicted, axes, owners)


def measure_position(config: SalConfig, out: Embedded, samples: Samples) -> Measured:
    """Error of places along the scan."""
    shape = (len(samples.items), -1)
    true, predicted, axes, _ = places(config, out, samples)
    return measure_places(
        "position_error",
        "error of a slice's place along its scan",
        true.reshape(shape),
        predicted.reshape(shape),
        axes.reshape(shape),
    )


def place_section(
    config: SalConfig, out: Embedded, samples: Samples, network: Network, scores: Scores
) -> Section:
    """Predicted against true places, and the places of all slices of one scan."""
    found = places(config, out, samples)
    how = (
        "read off the head"
        if config.position == "regress"
        else "the mean of its nearest slices in other scans"
    )
    return Section(
        title="Place of a slice along its scan",
        explanation=f"Predicted places are {how}; 0 % is the first slice, 100 % the last.",
        scores=scores.of("position_error"),
        panels=(
            ScatterPanel(
                title="Predicted against true place",
                caption="One point a held-out slice; a trained network lies on the diagonal.",
                predicted=100 * found.predicted,
                true=100 * found.true,
                unit="%",
                quantity="place along the scan",
                groups=tuple(_DIRECTIONS[a] for a in found.axes),
            ),
            _curve(config, out, network, found, samples.scans[0]),
        ),
    )


def _curve(
    config: SalConfig, out: Embedded, network: Network, found: Places, source: Source
) -> CurvePanel:
    """Places of all slices of one held-out scan, in order."""
    true, _, axes, owners = found
    axis = int(axes[0])
    count = min(_CURVE_SLICES, source.shape[axis])
    indices = np.linspace(0, source.shape[axis] - 1, count).round().astype(int)
    views = unposed(grid_of(source).slices([axis] * count, indices.tolist()), config.grid)
    shown = cut_discs(source, views, views.center_mm, config.radius_mm)
    images = torch.from_numpy(shown).to(out.slices)
    slices = embed(network, images, positions=False).slices
    if config.position == "regress":
        predicted = slices[:, axis].cpu().numpy()
    else:
        own, key = np.full(count, axis), np.full(count, source.key)
        predicted = _from_neighbours(slices, out.slices, true, own, key, axes, owners)
    at = np.array([position(source, axis, int(i)) for i in indices])
    stack, places_at = _DIRECTIONS[axis], indices.astype(np.float64)
    return place_curve(stack, source.key, places_at, at, predicted, "along the scan")


def _from_neighbours(
    queries: torch.Tensor,
    gallery: torch.Tensor,
    true: Array,
    query_axes: npt.NDArray[np.int64],
    query_owners: npt.NDArray[np.str_],
    axes: npt.NDArray[np.int64],
    owners: npt.NDArray[np.str_],
) -> Array:
    """Mean place of each query's nearest slices of the same direction, of other scans if any."""
    cosine = F.normalize(queries.double(), dim=1) @ F.normalize(gallery.double(), dim=1).T
    similarity: Array = cosine.cpu().numpy()
    allowed = query_axes[:, None] == axes
    other = allowed & (query_owners[:, None] != owners)
    allowed = np.where(other.any(1, keepdims=True), other, allowed & (similarity < 1 - 1e-6))
    similarity = np.where(allowed, similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1)[:, :_NEIGHBOURS]
    usable = np.isfinite(np.take_along_axis(similarity, nearest, axis=1))
    return row_means(np.where(usable, true[nearest], np.nan))
