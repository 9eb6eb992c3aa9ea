"""Places of slices along their scans: predictions, scores, curve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from situs.methods.base import Batch, Network
from situs.methods.sal.config import SalConfig
from situs.methods.sal.heads import Embedded, embed
from situs.methods.sal.views import position, slice_plane
from situs.observation import CurvePanel, ScatterPanel, Score, Section
from situs.views.planes import cut
from situs.views.slices import Pose
from situs.views.source import Source

Array = npt.NDArray[np.float64]

_DIRECTIONS = ("sagittal", "coronal", "axial")
_NEIGHBOURS = 5
_CURVE_SLICES = 32


def placing(
    config: SalConfig, out: Embedded, batch: Batch, network: Network, sources: Sequence[Source]
) -> Section:
    """The sub-task's section; see :func:`situs.methods.sal.observation.observe`."""
    shape = batch["position"].shape
    true = batch["position"].flatten().cpu().numpy().astype(np.float64)
    axes = batch["axis"].flatten().cpu().numpy()
    owners = np.repeat([s.key for s in sources], shape[1] * shape[2])
    if config.position == "regress":
        predicted = out.slices.gather(1, batch["axis"].flatten()[:, None])[:, 0].cpu().numpy()
    else:
        predicted = _from_neighbours(out.slices, out.slices, true, axes, owners, axes, owners)
    error = 100 * np.abs(predicted - true)
    each = mean_of_rows(error.reshape(len(sources), -1))
    same = axes[:, None] == axes[None]
    scores = Score(
        "position_error",
        finite_mean(error),
        "%",
        "lower",
        chance=float(100 * np.abs(true[:, None] - true)[same].mean()),
        constant=float(
            100 * np.mean([np.abs(p - np.median(true[axes == a]))
                           for p, a in zip(true, axes, strict=True)])
        ),
        label="error of a slice's place along its scan",
        samples=tuple(each.tolist()),
    )  # fmt: skip
    how = (
        "read off the head"
        if config.position == "regress"
        else "the mean of its nearest slices in other scans"
    )
    return Section(
        title="Place of a slice along its scan",
        explanation=f"Predicted places are {how}; 0 % is the first slice, 100 % the last.",
        scores=(scores,),
        panels=(
            ScatterPanel(
                title="Predicted against true place",
                caption="One point a held-out slice; a trained network lies on the diagonal.",
                predicted=100 * predicted,
                true=100 * true,
                unit="%",
                quantity="place along the scan",
                groups=tuple(_DIRECTIONS[a] for a in axes),
            ),
            _curve(config, out, network, true, axes, owners, sources[0]),
        ),
    )


def _curve(
    config: SalConfig,
    out: Embedded,
    network: Network,
    true: Array,
    axes: npt.NDArray[np.int64],
    owners: npt.NDArray[np.str_],
    source: Source,
) -> CurvePanel:
    """Places of all slices of one held-out scan, in order."""
    axis = int(axes[0])
    count = min(_CURVE_SLICES, source.shape[axis])
    indices = np.linspace(0, source.shape[axis] - 1, count).round().astype(int)
    planes = [slice_plane(source, axis, int(i), config, Pose()) for i in indices]
    images = torch.from_numpy(cut(source, planes)).to(out.slices)
    slices = embed(network, images).slices
    if config.position == "regress":
        predicted = slices[:, axis].cpu().numpy()
    else:
        predicted = _from_neighbours(
            slices,
            out.slices,
            true,
            np.full(count, axis),
            np.full(count, source.key),
            axes,
            owners,
        )
    at = np.array([position(source, axis, int(i)) for i in indices])
    return CurvePanel(
        title=f"Places through the {_DIRECTIONS[axis]} stack of {source.key}",
        caption="A straight rising line is right.",
        x=indices.astype(np.float64),
        series=100 * np.stack([predicted, at]),
        names=("predicted", "true"),
        x_label="slice",
        y_label="place along the scan (%)",
    )


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
    places = np.where(usable, true[nearest], np.nan)
    return mean_of_rows(places)


def mean_of_rows(values: Array) -> Array:
    """Means over the finite values of each row; NaN where there is none."""
    finite = np.isfinite(values)
    count = finite.sum(1)
    total = np.where(finite, values, 0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def finite_mean(values: Array) -> float:
    """Mean of the finite values; NaN where there is none."""
    return float(mean_of_rows(np.asarray(values, np.float64).reshape(1, -1))[0])
