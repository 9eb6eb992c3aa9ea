"""Roles of the series of a study: which is the short axis, which the sagittal stack.

Rules look at what leaves the door of a scan (recognised words of the series' description,
orientation, number of slices), never at free text. What words leave open, the geometry of the
study decides. Ready rule files lie in ``roles/``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field, PositiveInt

from situs.catalog.stacks import AnySeries, Series, Stack, assembled, stacks_of
from situs.config import Config, load_config, unknown_name
from situs.geometry.stacks import Orientation, orientation, stack_axis

# Between views of one role. In the one heart that had both, the right's 2ch lay 51 mm beside.
_ANOTHER_PLANE_MM = 20.0
_ANOTHER_PLANE_DEG = 30.0  # between views of one role; the long-axis views are about 60° apart


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
        normal: How the planes of the role usually lie, their normal in R, A, S, any length, signs
            aside. It decides only where several series of a study have the role by their words
            and show planes that are far apart.
        across: Roles whose planes this one's slices lie across. A stack without a role that is
            perpendicular to the line that two of these planes or more have in common has this
            one, whatever its words.
        max_across_deg: Largest angle between that line and the stack's normal.
    """

    pattern: Pattern | None = None
    orientation: Orientation | None = None
    max_tilt_deg: float = Field(45.0, gt=0, le=90)
    min_slices: PositiveInt = 1
    max_slices: PositiveInt | None = None
    normal: tuple[float, float, float] | None = None
    across: tuple[str, ...] = ()
    max_across_deg: float = Field(20.0, gt=0, le=90)


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
    """The role of a series by itself under ``rules``; its study may tell more."""
    if stack_axis(series.shape, series.spacing) is None:
        return Recognised("", "an isotropic volume, not a stack of slices", None, None, 0.0)
    return _by_words(Stack.of(series), rules)


def _by_words(stack: Stack[AnySeries], rules: RoleRules) -> Recognised:
    name, tilt = orientation(stack.normal_mm)
    axis = stack.slices[0].axis
    if rules.exclude and (word := _word(rules.exclude, stack.description)):
        return Recognised("", f"excluded by the word '{word}'", axis, name, tilt)
    unnamed, misses = [], []
    for role, rule in rules.roles.items():
        if rule.pattern and not _word(rule.pattern, stack.description):
            unnamed.append(role)
        elif miss := _miss(stack, name, tilt, rule):
            misses.append(f"{role}: {miss}")
        else:
            return Recognised(role, "", axis, name, tilt)
    if unnamed:
        misses.append(f"no word for {', '.join(unnamed)} in '{stack.description}'")
    return Recognised("", "; ".join(misses), axis, name, tilt)


def _word(pattern: str, words: str) -> str:
    """What a pattern fits, one or more whole words (``ax`` is no part of ``sax``), or nothing."""
    found = re.search(rf"(?<!\S)(?:{pattern})(?!\S)", words)
    return found.group() if found else ""


def _miss(stack: Stack[AnySeries], name: Orientation, tilt: float, rule: RoleRule) -> str:
    """Why a rule does not hold, words aside; empty where it does."""
    slices = len(stack.slices)
    if rule.orientation and name != rule.orientation:
        return f"slices are {name}"
    if rule.orientation and tilt > rule.max_tilt_deg:
        return f"tilted by {tilt:.0f}°"
    if slices < rule.min_slices:
        return f"{slices} slices are fewer than {rule.min_slices}"
    if rule.max_slices is not None and slices > rule.max_slices:
        return f"{slices} slices are more than {rule.max_slices}"
    return ""


def recognise_study(
    study: Sequence[AnySeries], rules: RoleRules
) -> list[tuple[Stack[AnySeries], Recognised]]:
    """The stacks of a study with their roles; what words leave open, geometry decides.

    Series that words give a role to keep it, unless others with that role show another plane
    that is closer to where such views usually lie. Single slices without a role are put together
    to stacks, and a stack without a role that lies across the planes of others has the role that
    says so (:attr:`RoleRule.across`). Of several planes of one role that it lies across, those far
    from the middle of its pictures are another view: the right heart's two chambers are not the
    left's.

    Args:
        study: All series of one frame of reference, time frames in order.
        rules: Whose roles.

    Returns:
        Every series that is a stack, and the stacks that several were put together to, whose
        slices then stand in no other.
    """
    single = stacks_of(study)
    found = [_by_words(stack, rules) for stack in single]
    found = _unless_contradicted(single, found, rules)
    open_ = [
        stack
        for stack, seen in zip(single, found, strict=True)
        if not seen.role and not _left_out(stack, rules)
    ]
    made = assembled(open_, len(single))
    used = {id(part) for stack in made for part in stack.series}
    rest = [
        (stack, seen)
        for stack, seen in zip(single, found, strict=True)
        if id(stack.series[0]) not in used
    ]
    every = rest + [(stack, _put_together(stack, rules)) for stack in made]
    return _unless_aside(_across(every, rules), rules)


def _left_out(stack: Stack[AnySeries], rules: RoleRules) -> bool:
    """Whether a stack is excluded, or carries words that name a role, though not its slices."""
    if rules.exclude and _word(rules.exclude, stack.description):
        return True
    named = (r.pattern for r in rules.roles.values() if r.pattern and r.max_slices is not None)
    return any(_word(pattern, stack.description) for pattern in named)


def _put_together(stack: Stack[AnySeries], rules: RoleRules) -> Recognised:
    seen = _by_words(stack, rules)
    how = f"put together from {len(stack.slices)} series by geometry"
    return seen._replace(reason=how if seen.role else f"{how}; {seen.reason}")


def _unless_contradicted(
    stacks: Sequence[Stack[AnySeries]], found: Sequence[Recognised], rules: RoleRules
) -> list[Recognised]:
    """Roles by words, less those of series whose plane is another than the role's."""
    kept = list(found)
    for role, rule in rules.roles.items():
        mine = [i for i, seen in enumerate(found) if seen.role == role]
        if rule.normal is None or not mine:
            continue
        away = [_between_deg(stacks[i].normal_mm, rule.normal) for i in mine]
        best = stacks[mine[int(np.argmin(away))]].normal_mm
        for i in mine:
            turned = _between_deg(stacks[i].normal_mm, best)
            if turned > _ANOTHER_PLANE_DEG:
                why = f"described as {role}, but {turned:.0f}° from the one that lies as {role} do"
                kept[i] = found[i]._replace(role="", reason=why)
    return kept


def _across(
    every: list[tuple[Stack[AnySeries], Recognised]], rules: RoleRules
) -> list[tuple[Stack[AnySeries], Recognised]]:
    """Roles of stacks without one that lie across the planes of others."""
    for role, rule in rules.roles.items():
        there = [name for name in rule.across if any(seen.role == name for _, seen in every)]
        axis = _common_line(every, there)
        if axis is None or any(seen.role == role for _, seen in every):
            continue
        for at, (stack, seen) in enumerate(every):
            away = _between_deg(stack.normal_mm, axis)
            if seen.role or _left_out(stack, rules) or away > rule.max_across_deg:
                continue
            if rule.min_slices <= len(stack.slices) <= (rule.max_slices or len(stack.slices)):
                why = f"across {' and '.join(there)}, {away:.0f}° from their common line"
                made = f"{len(stack.slices)} slices " if len(stack.series) > 1 else ""
                every[at] = stack, seen._replace(role=role, reason=made + why)
    return every


def _unless_aside(
    every: list[tuple[Stack[AnySeries], Recognised]], rules: RoleRules
) -> list[tuple[Stack[AnySeries], Recognised]]:
    """Roles, less those of planes that pass by what others of the same role go through."""
    for role, rule in rules.roles.items():
        middles = [
            s.middle_plane.center_mm for s, seen in every if rule.across and seen.role == role
        ]
        if not middles:
            continue
        middle = np.mean(middles, axis=0)
        for name in rule.across:
            away = {
                at: abs(float(stack.middle_plane.distance_mm(middle)))
                for at, (stack, seen) in enumerate(every)
                if seen.role == name
            }
            for at, far in away.items():
                if far - min(away.values()) > _ANOTHER_PLANE_MM:
                    why = f"described as {name}, but {far:.0f} mm beside the middle of {role}"
                    every[at] = every[at][0], every[at][1]._replace(role="", reason=why)
    return every


def _common_line(
    every: Sequence[tuple[Stack[AnySeries], Recognised]], roles: Sequence[str]
) -> npt.NDArray[np.float64] | None:
    """The direction that the planes of roles share; None where fewer than two are there.

    That is what is most nearly perpendicular to all their normals.
    """
    normals = [
        np.mean([np.sign(n @ of[0]) * n for n in of], axis=0)
        for name in roles
        if (of := [stack.normal_mm for stack, seen in every if seen.role == name])
    ]
    if len(normals) < 2:
        return None
    stacked = np.stack(normals)
    values, vectors = np.linalg.eigh(stacked.T @ stacked)
    if values[1] < 0.1:  # planes that are nearly one share no line
        return None
    line: npt.NDArray[np.float64] = vectors[:, 0]
    return line


def _between_deg(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Between two axes of any length, signs aside."""
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    cosine = abs(float(a @ b)) / float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.degrees(np.arccos(min(1.0, cosine))))


def by_role(study: Sequence[AnySeries], rules: RoleRules) -> dict[str, list[Stack[AnySeries]]]:
    """The stacks of a study under their roles, in the rules' order; those without are left out.

    Time frames of a cine are stacks of their own with one geometry, so a role can have many.
    """
    found: dict[str, list[Stack[AnySeries]]] = {role: [] for role in rules.roles}
    for stack, seen in recognise_study(study, rules):
        if seen.role:
            found[seen.role].append(stack)
    return {role: members for role, members in found.items() if members}
