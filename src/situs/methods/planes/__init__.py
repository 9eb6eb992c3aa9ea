"""Intersecting lines and slice location of prescribed planes (arXiv 2403.16499)."""

from situs.methods.planes.config import PlanesConfig
from situs.methods.planes.losses import line, location
from situs.methods.planes.method import Planes
from situs.methods.planes.plan import PlannedPlane, plan_plane

__all__ = ["Planes", "PlanesConfig", "PlannedPlane", "line", "location", "plan_plane"]
