"""Roles of the series of a study: which is the short axis, which the sagittal stack.

Rules look at what leaves the door of a scan (recognised words of the series' description,
orientation, number of slices), never at free text. Ready rule files lie in ``rules/``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field, PositiveInt

from situs.catalog.measure import Entry
from situs.config import Config, load_config, unknown_name
from situs.geometry import Plane
from situs.geometry.stacks import Orientation, orientation, stack_axis


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]


class RoleRule(Config):
    """What a series must be to have a role; every condition given must hold.

    Attributes:
        pattern: Regular expression for whole words among those recognised in the description, in
            lower case (``t1 sax``); see ``situs.scans.privacy.role_words``.
        orientation: Cardinal orientation that the slices are closest to.
        max_tilt_deg: Largest angle to that orientation.
        min_slices: Slices at least.
        max_slices: Slices at most.
    """

    pattern: Pattern | None = None
    orientation: Orientation | None = None
    max_tilt_deg: float = Field(45.0, gt=0, le=90)
    min_slices: PositiveInt = 1
    max_slices: PositiveInt | None = None


class RoleRules(Config):
    """Roles by name; the first whose rule holds is taken.

    Attributes:
        title: What studies they are for.
        roles: Name and rule.
        exclude: Series whose words match have no role.
    """

    title: str = ""
    roles: dict[str, RoleRule] = Field(min_length=1)
    exclude: Pattern | None = None


class Series(Protocol):
    """What rules look at; a :class:`~situs.methods.base.Source` is one."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres along each axis."""

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """``(4, 4)``, voxel centres to RAS mm."""

    @property
    def description(self) -> str:
        """Recognised words."""


AnySeries = TypeVar("AnySeries", bound=Series)


class Recognised(NamedTuple):
    """The role of a series, or why it has none.

    Attributes:
        role: Name, empty where none fits.
        reason: Why none fits.
        axis: Axis the slices are stacked along, None for an isotropic volume.
        orientation: Cardinal orientation, empty for an isotropic volume.
        tilt_deg: Angle to it.
    """

    role: str
    reason: str
    axis: int | None
    orientation: Orientation | None
    tilt_deg: float


class StudyRow(NamedTuple):
    """One series of a study, for a table."""

    study: str
    series: str
    words: str
    slices: int
    frames: int
    spacing: tuple[float, ...]
    recognised: Recognised


def available_rules() -> list[str]:
    """Names of the ready rule files."""
    files = resources.files("situs.catalog.roles").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


@cache
def load_rules(name: str) -> RoleRules:
    """Rules by name (``"heart"``, ``"knee"``, ``"orthogonal"``) or by the path of a YAML file.

    Raises:
        ConfigError: For an unknown name, or a file that holds no rules.
    """
    if name.endswith((".yaml", ".yml")):
        return load_config(RoleRules, Path(name))
    if name not in available_rules():
        raise unknown_name("rule file", name, available_rules())
    with resources.as_file(resources.files("situs.catalog.roles") / f"{name}.yaml") as file:
        return load_config(RoleRules, file)


def recognise(series: Series, rules: RoleRules) -> Recognised:
    """The role of a series under ``rules``."""
    axis = stack_axis(series.shape, series.spacing)
    if axis is None:
        return Recognised("", "an isotropic volume, not a stack of slices", None, None, 0.0)
    first, second = (series.affine[:3, a] for a in range(3) if a != axis)
    name, tilt = orientation(np.cross(first, second))
    if rules.exclude and _names(rules.exclude, series.description):
        return Recognised("", f"excluded by '{rules.exclude}'", axis, name, tilt)
    misses = []
    for role, rule in rules.roles.items():
        miss = _miss(series, axis, name, tilt, rule)
        if not miss:
            return Recognised(role, "", axis, name, tilt)
        misses.append(f"{role}: {miss}")
    return Recognised("", "; ".join(misses), axis, name, tilt)


def _names(pattern: str, words: str) -> bool:
    """Whether a pattern fits one or more whole words: ``ax`` is no part of ``sax``."""
    return re.search(rf"(?<!\S)(?:{pattern})(?!\S)", words) is not None


def _miss(series: Series, axis: int, name: Orientation, tilt: float, rule: RoleRule) -> str:
    """Why a rule does not hold; empty where it does."""
    slices = series.shape[axis]
    if rule.pattern and not _names(rule.pattern, series.description):
        return f"no '{rule.pattern}' in '{series.description}'"
    if rule.orientation and name != rule.orientation:
        return f"slices are {name}"
    if rule.orientation and tilt > rule.max_tilt_deg:
        return f"tilted by {tilt:.0f}°"
    if slices < rule.min_slices:
        return f"{slices} slices are fewer than {rule.min_slices}"
    if rule.max_slices is not None and slices > rule.max_slices:
        return f"{slices} slices are more than {rule.max_slices}"
    return ""


def by_role(study: Sequence[AnySeries], rules: RoleRules) -> dict[str, list[AnySeries]]:
    """The series of a study under their roles, in the rules' order; those without are left out.

    Time frames of a cine series are series of their own with one geometry, so a role can have
    many.
    """
    found: dict[str, list[AnySeries]] = {role: [] for role in rules.roles}
    for series in study:
        role = recognise(series, rules).role
        if role:
            found[role].append(series)
    return {role: members for role, members in found.items() if members}


def middle_plane(series: Series) -> Plane:
    """The plane that a stack stands for: halfway between its first and last slice.

    Raises:
        ValueError: For an isotropic volume.
    """
    axis = stack_axis(series.shape, series.spacing)
    if axis is None:
        raise ValueError("an isotropic volume has no middle plane")
    return Plane.from_affine(series.affine, axis, (series.shape[axis] - 1) / 2, series.shape)


def study_table(entries: Sequence[Entry], rules: RoleRules) -> list[StudyRow]:
    """One row a series of a catalog: what was recognised and what was not.

    Args:
        entries: Accepted entries of a catalog; entries that are volumes (time frames) of one
            series make one row.
        rules: Whose roles.
    """
    frames: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        frames.setdefault((entry.study, entry.series or entry.key), []).append(entry)
    rows = []
    for (study, series), members in sorted(frames.items()):
        seen = recognise(_EntrySeries(members[0]), rules)
        slices = members[0].shape[seen.axis] if seen.axis is not None else 0
        words, spacing = members[0].description, members[0].spacing
        rows.append(StudyRow(study, series, words, slices, len(members), spacing, seen))
    return rows


class _EntrySeries:
    """A catalog's entry as a :class:`Series`."""

    def __init__(self, entry: Entry) -> None:
        x, y, z = entry.shape
        self.shape = (x, y, z)
        a, b, c = entry.spacing
        self.spacing = (a, b, c)
        self.affine = np.array(entry.affine, dtype=np.float64).reshape(4, 4)
        self.description = entry.description
