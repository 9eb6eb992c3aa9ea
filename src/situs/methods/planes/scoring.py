"""Errors of predicted lines and planned planes in degrees and mm, with what chance would give.

Angle and distance of planned planes are the measures of arXiv 2309.12805; those of lines, and what
chance and the mean line give, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from situs.errors import SitusError
from situs.geometry import Plane
from situs.geometry.lines import line_angle_deg, line_offset_mm
from situs.methods.base import Batch
from situs.methods.measured import Measured, finite_mean
from situs.methods.planes.plan import PlannedPlane, plan_plane
from situs.methods.slices import plane_at
from situs.views.planes import centred_plane
from situs.views.planes_virtual import in_plane_axes

Array = npt.NDArray[np.float64]


class Errors(NamedTuple):
    """Of lines or planes, ``(N, R)`` each for R roles; NaN where there is nothing to compare.

    The distance of a line is the mean one of the true segment from the predicted line, that of a
    plane the one of the acquired image's centre from the planned plane.
    """

    angle_deg: Array
    distance_mm: Array


def line_errors(
    predicted: Array,
    true: Array,
    visible: npt.NDArray[np.bool_],
    shape: tuple[int, int],
    pixel_mm: Array,
) -> Errors:
    """Compare lines ``(N, R, 3)``; pixels are square, ``pixel_mm (N,)`` wide.

    A visible line for which nothing was predicted counts as wrong by 90° and by half the image.
    """
    seen = np.where(visible[..., None], true, np.nan)
    angle = line_angle_deg(predicted, seen, (1.0, 1.0))
    distance = line_offset_mm(predicted, seen, shape, (1.0, 1.0))
    silent = visible & ~np.isfinite(predicted).all(-1)
    angle[silent], distance[silent] = 90.0, max(shape) / 2
    return Errors(angle, distance * pixel_mm[:, None])


def chance_line_errors(
    true: Array, visible: npt.NDArray[np.bool_], shape: tuple[int, int], pixel_mm: Array
) -> Errors:
    """Errors of guessing: the true line of the same role in another image, averaged over all."""
    n, roles = visible.shape
    angle, distance = np.full((n, roles), np.nan), np.full((n, roles), np.nan)
    for role in range(roles):
        images = np.flatnonzero(visible[:, role])
        if len(images) < 2:
            continue
        lines = true[images, role]
        guess, truth = np.broadcast_to(lines, (len(images), *lines.shape)), lines[:, None]
        others = ~np.eye(len(images), dtype=bool)
        count = len(images) - 1
        a = line_angle_deg(guess, truth, (1.0, 1.0))
        d = line_offset_mm(guess, np.broadcast_to(truth, guess.shape), shape, (1.0, 1.0))
        angle[images, role] = (a * others).sum(1) / count
        distance[images, role] = (d * others).sum(1) / count * pixel_mm[images]
    return Errors(angle, distance)


def constant_lines(
    true: Array,
    visible: npt.NDArray[np.bool_],
    shape: tuple[int, int],
    views: npt.NDArray[np.integer[Any]],
) -> Array:
    """The best constant answer ``(N, R, 3)``: mean direction and median offset of each line.

    One constant for each target role and each role that the view itself has: what someone could
    answer who knows the protocol and the field of view but does not look at the image.

    Args:
        true: ``(N, R, 3)``.
        visible: ``(N, R)``.
        shape: (rows, columns) of the images.
        views: ``(N,)`` role of each image.
    """
    middle = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    constant = np.full_like(true, np.nan)
    for view, role in product(np.unique(views), range(true.shape[1])):
        chosen = (views == view) & visible[:, role]
        lines = true[chosen, role]
        if not len(lines):
            continue
        moment = lines[:, :2].T @ lines[:, :2]
        normal = np.linalg.eigh(moment)[1][:, -1]
        offset = (lines[:, :2] @ middle + lines[:, 2]) * np.sign(lines[:, :2] @ normal)
        constant[views == view, role] = [*normal, np.median(offset) - normal @ middle]
    return constant


def views_of(batch: Batch, sample: int) -> list[Plane]:
    """The planes of a sample's images."""
    return [plane_at(batch, "images", sample, k) for k in range(batch["images"].shape[1])]


def plan_planes(batch: Batch, lines: Array, confidence: Array) -> list[list[PlannedPlane | None]]:
    """The plane of each role of each sample, put together from lines in other roles' views.

    None where a study has no such plane, or too few usable lines in other roles' views.

    Args:
        batch: Of :func:`~situs.methods.planes.views.sample_study`, stacked.
        lines: ``(B, K, R, 3)``.
        confidence: ``(B, K, R)``.
    """
    role_of, present = batch["role"].cpu().numpy(), batch["present"].cpu().numpy()
    planned: list[list[PlannedPlane | None]] = []
    for b, roles in enumerate(present):
        views = views_of(batch, b)
        planned.append([None] * len(roles))
        for r in np.flatnonzero(roles):
            sure = np.where(role_of[b] != r, confidence[b, :, r], 0.0)
            with suppress(SitusError):
                planned[b][r] = plan_plane(views, lines[b, :, r], sure)
    return planned


def deviations(batch: Batch, planned: Sequence[Sequence[PlannedPlane | None]]) -> Errors:
    """Of planned planes from the acquired ones, ``(B, R)``; NaN for None."""
    angle, distance = np.full((2, len(planned), len(planned[0])), np.nan)
    for b, row in enumerate(planned):
        for r, plane in enumerate(row):
            if plane is not None:
                angle[b, r], distance[b, r] = plane.deviation(acquired_plane(batch, b, r))
    return Errors(angle, distance)


def measured(
    name: str,
    labels: tuple[str, str],
    errors: Errors,
    chance: Errors,
    constant: Errors,
    samples: int,
) -> list[Measured]:
    """Angle and distance as scores ``name_angle`` and ``name_distance``, over all lines or planes.

    Args:
        name: Of what is compared.
        labels: Of the angle and of the distance, in words.
        errors: Of what was predicted.
        chance: Of guessing.
        constant: Of the best constant answer.
        samples: Number of samples, whose lines stand one after another.
    """
    kinds = zip(("angle", "distance"), ("°", "mm"), labels, errors, chance, constant, strict=True)
    return [
        Measured(
            f"{name}_{kind}",
            of.reshape(samples, -1),
            unit,
            "lower",
            label,
            chance=finite_mean(guess),
            constant=finite_mean(same),
            value=finite_mean(of),
        )
        for kind, unit, label, of, guess, same in kinds
    ]


def acquired_plane(batch: Batch, sample: int, role: int) -> Plane:
    """The plane of a role as a sample's study has it, one pixel large."""
    point, normal = batch["target_mm"][sample, role].cpu().numpy()
    return centred_plane(point, *in_plane_axes(normal), (1, 1), (1.0, 1.0))
