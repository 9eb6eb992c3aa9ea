"""Pure functions on coordinates: gaps, planes, correspondence."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

# Public name → where it lives: whoever only reads files asks for axes and planes, and goes without
# torch, whose import takes longer than reading many a scan.
_LAZY = {
    "Plane": "situs.geometry.planes",
    "PlaneArray": "situs.geometry.planes",
    "chunk_offsets": "situs.geometry.gaps",
    "clip_lines": "situs.geometry.lines",
    "cycle_sums": "situs.geometry.gaps",
    "gap_matrix": "situs.geometry.gaps",
    "intersect": "situs.geometry.planes",
    "line_heatmap": "situs.geometry.lines",
    "map_tokens": "situs.geometry.correspondence",
    "match_matrix": "situs.geometry.correspondence",
    "match_targets": "situs.geometry.correspondence",
    "mutual_matches": "situs.geometry.correspondence",
    "route_sums": "situs.geometry.gaps",
    "token_affine": "situs.geometry.correspondence",
    "token_centres": "situs.geometry.correspondence",
    "transform_lines": "situs.geometry.lines",
    "turn_affine_lps_ras": "situs.geometry.frames",
    "turn_lps_ras": "situs.geometry.frames",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'situs.geometry' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
