"""Triangle meshes of boxes, arrows and points in RAS mm, and the MZ3 format they travel in.

Truth is a solid tube and prediction a dashed one, as in the figures.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from situs.observation.panels import Array

_SIDES = 8
_MZ3_MAGIC = 23117
_FACES_AND_VERTICES = 0b11
# The twelve edges of a box whose corner k has bit a of k as its place along axis a.
_BOX_EDGES = np.asarray(
    [(a, a | bit) for bit in (1, 2, 4) for a in range(8) if not a & bit], dtype=int
)
_OCTAHEDRON = np.asarray([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])


@dataclass(frozen=True)
class Mesh:
    """``vertices (V, 3)`` in RAS mm and ``faces (F, 3)`` that index them."""

    vertices: npt.NDArray[np.float32]
    faces: npt.NDArray[np.int32]


def join(meshes: Sequence[Mesh]) -> Mesh:
    """Several meshes as one."""
    if not meshes:
        return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    offsets = np.cumsum([0, *(len(m.vertices) for m in meshes[:-1])])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.faces + o for m, o in zip(meshes, offsets, strict=True)]).astype(
            np.int32
        ),
    )


def tube(start_mm: Array, end_mm: Array, radius: float, tip_radius: float | None = None) -> Mesh:
    """A closed round bar between two points; with ``tip_radius`` 0 it is a cone."""
    start, end = np.asarray(start_mm, float), np.asarray(end_mm, float)
    along = end - start
    length = np.linalg.norm(along)
    if length == 0 or not np.isfinite(length):
        return join([])
    along /= length
    across = np.cross(along, np.eye(3)[np.abs(along).argmin()])
    across /= np.linalg.norm(across)
    angle = np.linspace(0, 2 * np.pi, _SIDES, endpoint=False)[:, None]
    ring = np.cos(angle) * across + np.sin(angle) * np.cross(along, across)
    tip = radius if tip_radius is None else tip_radius
    vertices = np.concatenate([start + radius * ring, end + tip * ring, [start], [end]])
    here = np.arange(_SIDES)
    there = (here + 1) % _SIDES
    centre = 2 * _SIDES
    faces = np.concatenate(
        [
            np.stack([here, there, there + _SIDES], 1),
            np.stack([here, there + _SIDES, here + _SIDES], 1),
            np.stack([there, here, np.full(_SIDES, centre)], 1),
            np.stack([here + _SIDES, there + _SIDES, np.full(_SIDES, centre + 1)], 1),
        ]
    )
    return Mesh(vertices.astype(np.float32), faces.astype(np.int32))


def line(start_mm: Array, end_mm: Array, radius: float, dashed: bool = False) -> Mesh:
    """A tube, or a row of short ones."""
    start, end = np.asarray(start_mm, float), np.asarray(end_mm, float)
    length = float(np.linalg.norm(end - start))
    if not dashed or not np.isfinite(length):
        return tube(start, end, radius)
    dashes = int(np.clip(round(length / (8 * radius)), 2, 60))
    ends = np.linspace(0, 1, 2 * dashes)
    return join(
        [
            tube(start + a * (end - start), start + b * (end - start), radius)
            for n, (a, b) in enumerate(pairwise(ends))
            if n % 2 == 0
        ]
    )


def arrow(start_mm: Array, end_mm: Array, radius: float, dashed: bool = False) -> Mesh:
    """A line with a cone as its head, which ends exactly at ``end_mm``."""
    start, end = np.asarray(start_mm, float), np.asarray(end_mm, float)
    length = float(np.linalg.norm(end - start))
    if length == 0 or not np.isfinite(length):
        return join([])
    neck = end - (end - start) * min(0.45, 7 * radius / length)
    return join([line(start, neck, radius, dashed), tube(neck, end, 2.8 * radius, 0.0)])


def box(
    affine: Array, low_vox: Array, high_vox: Array, radius: float, dashed: bool = False
) -> Mesh:
    """The edges of a box of voxels; oblique in space where the scan is.

    Args:
        affine: ``(4, 4)``, voxel centres to RAS mm.
        low_vox: Lower corner, at voxel edges.
        high_vox: Upper corner.
        radius: Of the edges, in mm.
        dashed: Dash the edges.
    """
    low, high = np.asarray(low_vox, float), np.asarray(high_vox, float)
    bits = (np.arange(8)[:, None] >> np.arange(3)) & 1
    corners = np.where(bits, high, low) @ affine[:3, :3].T + affine[:3, 3]
    return join([line(corners[a], corners[b], radius, dashed) for a, b in _BOX_EDGES])


def ball(centre_mm: Array, radius: float) -> Mesh:
    """An octahedron split once: round enough for a point."""
    if not np.isfinite(centre_mm).all():
        return join([])
    faces = [
        (x, y, z) if (x + y + z) % 2 == 0 else (x, z, y)
        for x in (0, 1)
        for y in (2, 3)
        for z in (4, 5)
    ]
    points = [p.astype(float) for p in _OCTAHEDRON]
    split = []
    for a, b, c in faces:
        ab, bc, ca = (_middle(points, *pair) for pair in ((a, b), (b, c), (c, a)))
        split += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    vertices = np.asarray(centre_mm, float) + radius * np.asarray(points)
    return Mesh(vertices.astype(np.float32), np.asarray(split, np.int32))


def _middle(points: list[npt.NDArray[np.float64]], a: int, b: int) -> int:
    middle = points[a] + points[b]
    points.append(middle / np.linalg.norm(middle))
    return len(points) - 1


def to_mz3(mesh: Mesh) -> bytes:
    """The mesh as a gzipped MZ3 file (the viewer's own binary format)."""
    header = struct.pack(
        "<HHIII", _MZ3_MAGIC, _FACES_AND_VERTICES, len(mesh.faces), len(mesh.vertices), 0
    )
    body = header + mesh.faces.astype("<i4").tobytes() + mesh.vertices.astype("<f4").tobytes()
    return gzip.compress(body, 6, mtime=0)
