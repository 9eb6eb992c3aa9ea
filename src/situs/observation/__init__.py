"""What a network said beside what was true, in physical units: data only, no drawing.

Methods return an :class:`Observation`; ``situs.report`` draws any of them without knowing the
network. A method composes its observation from a handful of panel types, so that a new method
needs no drawing code.
"""

from situs.observation.observation import Observation, Section, iter_panels
from situs.observation.panels import (
    PANELS,
    AnyPanel,
    ArrowsPanel,
    BoxesPanel,
    CurvePanel,
    ImagesPanel,
    LinesPanel,
    MatchesPanel,
    MatrixPanel,
    OverlayPanel,
    Panel,
    ScatterPanel,
    Volume,
)
from situs.observation.score import Reach, Score

__all__ = [
    "PANELS",
    "AnyPanel",
    "ArrowsPanel",
    "BoxesPanel",
    "CurvePanel",
    "ImagesPanel",
    "LinesPanel",
    "MatchesPanel",
    "MatrixPanel",
    "Observation",
    "OverlayPanel",
    "Panel",
    "Reach",
    "ScatterPanel",
    "Score",
    "Section",
    "Volume",
    "iter_panels",
]
