"""Pure functions on coordinates: gaps, planes, correspondence."""

from situs.geometry.correspondence import (
    map_tokens,
    match_matrix,
    match_targets,
    mutual_matches,
    token_affine,
    token_centres,
)
from situs.geometry.frames import turn_affine_lps_ras, turn_lps_ras
from situs.geometry.gaps import chunk_offsets, cycle_sums, gap_matrix, route_sums
from situs.geometry.lines import clip_lines, line_heatmap, transform_lines
from situs.geometry.planes import Plane, PlaneArray, intersect

__all__ = [
    "Plane",
    "PlaneArray",
    "chunk_offsets",
    "clip_lines",
    "cycle_sums",
    "gap_matrix",
    "intersect",
    "line_heatmap",
    "map_tokens",
    "match_matrix",
    "match_targets",
    "mutual_matches",
    "route_sums",
    "token_affine",
    "token_centres",
    "transform_lines",
    "turn_affine_lps_ras",
    "turn_lps_ras",
]
