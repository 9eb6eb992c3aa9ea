"""Pure functions on coordinates: gaps, planes, correspondence."""

from situs.geometry.gaps import chunk_offsets, cycle_sums, gap_matrix, route_sums

__all__ = [
    "chunk_offsets",
    "cycle_sums",
    "gap_matrix",
    "route_sums",
]
