"""The predicted place of every slice of one stack, in order."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from situs.catalog.studies import load_rules, recognise
from situs.geometry import Plane
from situs.geometry.stacks import stack_axis
from situs.methods.base import Network
from situs.methods.planes.config import PlanesConfig
from situs.methods.planes.heads import predict
from situs.methods.planes.views import slice_of_stack
from situs.observation import CurvePanel
from situs.views.planes import cut
from situs.views.planes_virtual import anatomy_of, in_plane_axes, stack_slices
from situs.views.slices import Pose, posed
from situs.views.source import Source

_SLICES = 24


def stack_curve(config: PlanesConfig, network: Network, source: Source, like: Tensor) -> CurvePanel:
    """Places through the first role's stack of a virtual study, or through a real stack.

    Args:
        config: Of the method.
        network: Asked, on the device and in the precision of ``like``.
        source: The scan.
        like: Any tensor of the network's input.
    """
    bases, at, name = _stack(config, source)
    planes = [posed(base, base.center_mm, config.grid, Pose()) for base in bases]
    images = torch.from_numpy(cut(source, planes)).to(like)
    found = predict(network, images).location.float().cpu().numpy().astype(np.float64)
    return CurvePanel(
        title=f"Places through the {name} stack of {source.key}",
        caption="A straight rising line is right.",
        x=np.arange(len(at), dtype=np.float64),
        series=100 * np.stack([found, at]),
        names=("predicted", "true"),
        x_label="slice",
        y_label="place in the stack (%)",
    )


def _stack(
    config: PlanesConfig, source: Source
) -> tuple[list[Plane], np.ndarray[tuple[int], np.dtype[np.float64]], str]:
    if config.studies == "series":
        axis = stack_axis(source.shape, source.spacing)
        axis = 2 if axis is None else axis
        count = source.shape[axis]
        indices = np.linspace(0, count - 1, min(_SLICES, count)).round()
        name = recognise(source, load_rules(config.rules)).role
        index = config.roles.index(name) if name else -1
        slices = [slice_of_stack(source, axis, int(i), index, config) for i in indices]
        at = np.array([s.location for s in slices])
        return [s.base for s in slices], at, name or source.description or "first"
    name, role = next(iter(config.virtual.roles.items()))
    at = np.linspace(0, 1, _SLICES)
    axes = np.repeat([in_plane_axes(role.normal)], _SLICES, axis=0)
    return stack_slices(anatomy_of(source), config.virtual, axes, at), at, name
