"""The predicted place of every slice of one stack, in order.

The place in a stack is the paper's target (arXiv 2403.16499); the curve through a stack is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from situs.catalog.studies import by_role, load_rules
from situs.methods.base import Network
from situs.methods.planes.config import PlanesConfig
from situs.methods.planes.heads import places
from situs.methods.planes.views import StudySlices, slices_of_stacks, stack_in, study_images
from situs.methods.slices import place_curve
from situs.observation import CurvePanel
from situs.views.planes_virtual import anatomy_of, in_plane_axes, stack_slices
from situs.views.scan_grid import grid_of
from situs.views.slices import unposed
from situs.views.source import Source

_SLICES = 24


def stack_curve(
    config: PlanesConfig, network: Network, item: Sequence[Source], like: Tensor
) -> CurvePanel:
    """Places through the first role's stack of a virtual study, or the longest of a real one.

    Args:
        config: Of the method.
        network: Asked, on the device and in the precision of ``like``.
        item: The scans of the study.
        like: Any tensor of the network's input.
    """
    slices, at, name = _stack(config, item)
    planes = unposed(slices.bases, config.grid)
    images = torch.from_numpy(study_images(slices, planes, config)).to(like)
    found = places(network, images).float().cpu().numpy().astype(np.float64)
    numbers = np.arange(len(at), dtype=np.float64)
    return place_curve(name, slices.sources[0].key, numbers, at, found, "in the stack")


def _stack(
    config: PlanesConfig, item: Sequence[Source]
) -> tuple[StudySlices, np.ndarray[tuple[int], np.dtype[np.float64]], str]:
    if config.studies == "series":
        roles = by_role(item, load_rules(config.rules))
        every = [(len(s[0].slices), role, s[0]) for role, s in roles.items()]
        _, name, stack = max(every, key=lambda e: e[0]) if every else (0, "", stack_in(item[0]))
        count = len(stack.slices)
        indices = np.linspace(0, count - 1, min(_SLICES, count)).round()
        index = config.roles.index(name) if name else -1
        slices = slices_of_stacks([(stack, int(i), index) for i in indices], config)
        return slices, slices.locations, name or stack.description or "first"
    source = item[0]
    name, role = next(iter(config.virtual.roles.items()))
    at = np.linspace(0, 1, _SLICES)
    axes = np.stack(in_plane_axes(role.normal))
    bases = stack_slices(anatomy_of(source), config.virtual, axes, at, grid_of(source).room)
    first = np.zeros(_SLICES, dtype=np.int64)
    return StudySlices([source] * _SLICES, bases, first, at), at, name
