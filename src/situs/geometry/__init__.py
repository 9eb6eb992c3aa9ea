"""Pure functions on coordinates: gaps, planes, correspondence."""

from typing import TYPE_CHECKING

from situs.lazy import lazily

if TYPE_CHECKING:
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

# Whoever only reads files asks for axes and planes, and goes without torch, whose import takes
# longer than reading many a scan.
_LAZY = {
    "Plane": "planes",
    "PlaneArray": "planes",
    "chunk_offsets": "gaps",
    "clip_lines": "lines",
    "cycle_sums": "gaps",
    "gap_matrix": "gaps",
    "intersect": "planes",
    "line_heatmap": "lines",
    "map_tokens": "correspondence",
    "match_matrix": "correspondence",
    "match_targets": "correspondence",
    "mutual_matches": "correspondence",
    "route_sums": "gaps",
    "token_affine": "correspondence",
    "token_centres": "correspondence",
    "transform_lines": "lines",
    "turn_affine_lps_ras": "frames",
    "turn_lps_ras": "frames",
}

__getattr__, __dir__ = lazily(
    __name__, {name: f"{__name__}.{module}" for name, module in _LAZY.items()}, {*_LAZY.values()}
)
