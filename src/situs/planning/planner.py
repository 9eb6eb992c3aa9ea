"""``situs plan`` for one study: look at its slices, draw lines, put planes through them.

The way, lines of several views put together to planes, is that of arXiv 2309.12805; confidence of
lines, and saying why there is no plane, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from situs.catalog.studies import by_role, load_rules
from situs.config import unknown_name
from situs.errors import SitusError
from situs.geometry import Plane
from situs.geometry.frames import turn_lps_ras
from situs.geometry.line_fit import fit_line
from situs.methods.base import Network
from situs.methods.planes.config import PlanesConfig
from situs.methods.planes.heads import predict
from situs.methods.planes.plan import plan_plane
from situs.methods.planes.views import (
    StudySlices,
    slices_of_stacks,
    study_images,
    virtual_slices,
)
from situs.views.slices import unposed
from situs.views.source import Source

_BATCH = 16


@dataclass(frozen=True)
class RolePlan:
    """The plane planned for one role of one study.

    Attributes:
        study: Key of the study, or of its scan.
        role: The target.
        looked_at: Slices of other roles that were looked at.
        usable: Those with a confident line.
        residual_mm: Weighted root mean square distance of their lines from the plane.
        plane: The planned plane; None where there was none, and ``reason`` says why.
        angle_deg: To the acquired (or prescribed) plane; None where the study has none.
        distance_mm: Of that plane's centre from the planned plane.
        reason: Empty where a plane was planned.
    """

    study: str
    role: str
    looked_at: int
    usable: int = 0
    residual_mm: float | None = None
    plane: Plane | None = None
    angle_deg: float | None = None
    distance_mm: float | None = None
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; the plane both in RAS mm and as DICOM attributes (LPS mm)."""
        values: dict[str, Any] = {k: v for k, v in vars(self).items() if k != "plane"}
        if self.plane is not None:
            plane = self.plane
            values["plane_ras"] = {
                "origin_mm": plane.origin_mm.tolist(),
                "row_mm": plane.row_mm.tolist(),
                "column_mm": plane.column_mm.tolist(),
                "shape": plane.shape,
                "spacing": plane.spacing,
            }
            directions = turn_lps_ras([plane.row_mm, plane.column_mm])
            values["plane_dicom"] = {
                "ImagePositionPatient": turn_lps_ras(plane.origin_mm).tolist(),
                "ImageOrientationPatient": directions.ravel().tolist(),
                "PixelSpacing": plane.spacing,
                "Rows": plane.shape[0],
                "Columns": plane.shape[1],
            }
        return values


def plan_study(
    network: Network,
    config: PlanesConfig,
    item: Sequence[Source],
    roles: Sequence[str] = (),
    views: int = 12,
    rng: np.random.Generator | None = None,
) -> list[RolePlan]:
    """Plan the planes of one study from slices of its other roles.

    Args:
        network: Trained by ``planes``, in ``eval`` mode.
        config: That it was trained with.
        item: The scans of the study.
        roles: Targets; by default all that a study of the training had.
        views: Slices looked at, spread over the stacks; for virtual studies drawn at random.
        rng: Source of randomness of virtual slices.

    Raises:
        ConfigError: For an unknown role.
    """
    for role in roles:
        if role not in config.roles:
            raise unknown_name("role", role, config.roles)
    rng = rng or np.random.default_rng(0)
    key = item[0].study or item[0].key
    if config.studies == "series":
        slices, targets = _series(item, config, views)
    else:
        slices, prescribed = virtual_slices(item[0], config, views, rng)
        targets = {r: p for r, p in zip(config.roles, prescribed, strict=True) if p is not None}
    planes = unposed(slices.bases, config.grid)
    lines, confidence = predict_lines(network, config, slices, planes)
    plans = []
    for role in roles or config.learned_roles:
        index = config.roles.index(role)
        others = slices.roles != index
        sure = np.where(others, confidence[:, index], 0.0)
        if role not in config.learned_roles:
            never = f"the run never learned it: none of the studies it was trained on has '{role}'"
            plans.append(RolePlan(key, role, int(others.sum()), reason=never))
            continue
        target = targets.get(role)
        plans.append(_plan(key, role, planes, lines[:, index], sure, int(others.sum()), target))
    return plans


@torch.no_grad()
def predict_lines(
    network: Network,
    config: PlanesConfig,
    slices: StudySlices,
    planes: Sequence[Plane],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Fitted lines ``(N, R, 3)`` in pixels of each view, and their confidence ``(N, R)``."""
    parameter = next(network.parameters())
    lines, confidence = [np.zeros((0, len(config.roles), 3))], [np.zeros((0, len(config.roles)))]
    for start in range(0, len(slices), _BATCH):
        some = slice(start, start + _BATCH)
        images = study_images(slices.part(some), planes[some], config)
        found = predict(network, torch.from_numpy(images).to(parameter))
        fitted = fit_line(found.heatmaps.float().cpu().numpy(), (1.0, 1.0), config.sigma)
        lines.append(fitted[0])
        confidence.append(fitted[1])
    return np.concatenate(lines), np.concatenate(confidence)


def _plan(
    key: str,
    role: str,
    planes: Sequence[Plane],
    lines: npt.NDArray[np.float64],
    sure: npt.NDArray[np.float64],
    looked_at: int,
    target: Plane | None,
) -> RolePlan:
    try:
        planned = plan_plane(planes, lines, sure)
    except SitusError as error:
        return RolePlan(key, role, looked_at, reason=str(error))
    weight, residual = planned.fit.weights, planned.fit.residuals_mm
    angle, distance = planned.deviation(target) if target is not None else (None, None)
    like = target if target is not None and min(target.shape) > 1 else planes[0]
    return RolePlan(
        study=key,
        role=role,
        looked_at=looked_at,
        usable=len(planned.views),
        residual_mm=float(np.sqrt((weight @ residual**2) / weight.sum())),
        plane=planned.plane(like.shape, like.spacing),
        angle_deg=angle,
        distance_mm=distance,
    )


def _series(
    item: Sequence[Source], config: PlanesConfig, views: int
) -> tuple[StudySlices, dict[str, Plane]]:
    """Slices spread evenly through the first stack of each role."""
    stacks = {role: s[0] for role, s in by_role(item, load_rules(config.rules)).items()}
    chosen = []
    for role, stack in stacks.items():
        count = len(stack.slices)
        share = max(1, views // max(1, len(stacks) - 1))
        for index in np.unique(np.linspace(0, count - 1, share + 2).round()[1:-1]):
            chosen.append((stack, int(index), config.roles.index(role)))
    targets = {role: stack.middle_plane for role, stack in stacks.items()}
    return slices_of_stacks(chosen, config), targets
