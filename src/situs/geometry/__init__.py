"""Pure functions on coordinates: gaps, planes, correspondence."""

from situs.geometry.correspondence import (
    map_tokens,
    match_matrix,
    match_targets,
    mutual_matches,
    token_affine,
    token_centres,
)
from situs.geometry.gaps import chunk_offsets, cycle_sums, gap_matrix, route_sums

__all__ = [
    "chunk_offsets",
    "cycle_sums",
    "gap_matrix",
    "map_tokens",
    "match_matrix",
    "match_targets",
    "mutual_matches",
    "route_sums",
    "token_affine",
    "token_centres",
]
