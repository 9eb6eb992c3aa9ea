"""``spatial``: gap matrix, adjacent and distant chunks, vectors and routes (arXiv 2509.05967)."""

from situs.methods.spatial.chunks import chunk_starts, cut_chunks
from situs.methods.spatial.config import SpatialConfig
from situs.methods.spatial.heads import SpatialHeads
from situs.methods.spatial.losses import (
    antisymmetry,
    chunk_adjacent,
    chunk_distant,
    cycle,
    gap_axis,
    gap_norm,
    route,
    vector,
    voxel,
)
from situs.methods.spatial.method import Spatial

__all__ = [
    "Spatial",
    "SpatialConfig",
    "SpatialHeads",
    "antisymmetry",
    "chunk_adjacent",
    "chunk_distant",
    "chunk_starts",
    "cut_chunks",
    "cycle",
    "gap_axis",
    "gap_norm",
    "route",
    "vector",
    "voxel",
]
