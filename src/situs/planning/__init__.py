"""Planes planned by a trained run."""

from situs.planning.planning import (
    Planner,
    RoleSummary,
    open_catalog,
    plan,
    prepared_studies,
    summarise,
)

__all__ = [
    "Planner",
    "RoleSummary",
    "open_catalog",
    "plan",
    "prepared_studies",
    "summarise",
]
