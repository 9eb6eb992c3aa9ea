"""Who is trained on, who stops training early, who is tested: never one patient twice."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from situs.errors import ConfigError, setting
from situs.splits.split import Split
from situs.transfer.cases import Cohort

Wish = int | float | Sequence[str] | None

_DECLARED = {"train": "train", "validation": "val", "test": "test"}
_NAMED = 5  # held-out cases that a line names


def described(split: Split, cohort: Cohort) -> str:
    """Who is trained on and who is held out, in one line."""
    words = {"train": "to train on", "validation": "for validation", "test": "to test on"}
    found = []
    for part, what in words.items():
        names = getattr(split, part)
        patients = len({cohort.group(name) for name in names})
        line = f"{len(names)} {'case' if len(names) == 1 else 'cases'} {what}"
        if patients != len(names):
            line += f", of {patients} {'patient' if patients == 1 else 'patients'}"
        if part != "train" and names:
            line += f" ({', '.join(names[:_NAMED])}{', …' if len(names) > _NAMED else ''})"
        found.append(line)
    return "; ".join(found)


def choose(cohort: Cohort, train: Wish, validation: Wish, test: Wish, seed: int) -> Split:
    """Fix the cases of each part.

    Numbers are drawn from the patients that no list names, in one order that depends on
    ``seed`` only: test cases from its end, validation cases before them, training cases from
    its start. So with one seed fewer training cases are a subset of more, and the test cases
    stay the same. Where the data set itself declares test or validation cases, they are drawn
    from those; a share then means all of them. For classification the classes take turns among
    the training cases. The cases of a patient are never parted.

    Args:
        cohort: Where the cases are.
        train: Names, a number of cases, a share of the patients (a fraction below 1), or None
            for all that remain.
        validation: The same.
        test: The same.
        seed: Of the drawing.

    Raises:
        ConfigError: For unknown names, a case or patient in two parts, or too few cases.
    """
    wishes = {"train": train, "validation": validation, "test": test}
    parts = {
        k: list(w) for k, w in wishes.items() if w is not None and not isinstance(w, int | float)
    }
    _check_named(cohort, parts)
    order = _order(cohort, {name for names in parts.values() for name in names}, seed)
    patients = len(order)
    # "All that remain" comes last, when the numbers have taken their share.
    drawing = sorted(("test", "validation", "train"), key=lambda part: wishes[part] is None)
    for part in drawing:
        wish = wishes[part]
        if part not in parts and (wish is None or isinstance(wish, int | float)):
            parts[part] = _draw(cohort, order, part, wish, patients, parts)
    for part in ("train", "test"):
        if not parts[part]:
            raise ConfigError(
                f"{setting(part)}: no case is left of {len(cohort.names)} labelled ones "
                f"({_held(parts)}). Label more, or hold out fewer"
            )
    return Split(*(tuple(parts[part]) for part in ("train", "validation", "test")))


def _order(cohort: Cohort, named: set[str], seed: int) -> list[list[str]]:
    """Cases of each patient that is not named yet, patients in random order."""
    taken = {cohort.group(name) for name in named}
    groups: dict[str, list[str]] = {}
    for name in cohort.names:
        if cohort.group(name) not in taken:
            groups.setdefault(cohort.group(name), []).append(name)
    patients = list(groups.values())
    return [patients[i] for i in np.random.default_rng(seed).permutation(len(patients))]


def _draw(
    cohort: Cohort,
    order: list[list[str]],
    part: str,
    wish: float | None,
    patients: int,
    parts: dict[str, list[str]],
) -> list[str]:
    """Take patients for ``part`` out of ``order``, which had ``patients`` before ``parts``."""
    eligible = _eligible(cohort, order, part)
    eligible = _in_turns(cohort, eligible) if part == "train" else eligible[::-1]
    count: int | None = None
    if isinstance(wish, float):
        eligible = _share(cohort, eligible, part, wish * patients)
    else:
        count = wish
    drawn: list[str] = []
    for patient in eligible:
        if count is not None and len(drawn) >= count:
            break
        drawn += patient
        order.remove(patient)
    if count is not None and len(drawn) < count:
        others = ", ".join(f"{setting(p)} has {len(names)}" for p, names in parts.items() if names)
        raise ConfigError(
            f"{setting(part)} asks for {count} cases, but {len(drawn)} are left of "
            f"{len(cohort.names)} labelled ones{f' ({others})' if others else ''}"
        )
    return drawn[:count]


def _share(cohort: Cohort, eligible: list[list[str]], part: str, wanted: float) -> list[list[str]]:
    """So many patients, rounded, one to test on at least; all where the data set declares them."""
    if part != "train" and any(cohort.declared_split(p[0]) == _DECLARED[part] for p in eligible):
        return eligible
    return eligible[: math.floor(wanted + 0.5) or int(part == "test")]


def _held(parts: dict[str, list[str]]) -> str:
    counts = {part: len(parts.get(part, ())) for part in ("train", "validation", "test")}
    return ", ".join(f"{setting(part)} has {count}" for part, count in counts.items())


def _eligible(cohort: Cohort, order: Sequence[list[str]], part: str) -> list[list[str]]:
    """Patients that the data set declares for ``part``, else those it leaves for training."""
    declared = [{cohort.declared_split(name) for name in patient} for patient in order]
    wanted = _DECLARED[part]
    if part == "train" or not any(wanted in splits for splits in declared):
        return [p for p, splits in zip(order, declared, strict=True) if splits <= {"", "train"}]
    return [p for p, splits in zip(order, declared, strict=True) if splits == {wanted}]


def _in_turns(cohort: Cohort, patients: Sequence[list[str]]) -> list[list[str]]:
    """The first patient of every class, then the second of every class, and so on."""
    met: Counter[tuple[int, ...]] = Counter()
    turns = []
    for patient in patients:
        target = cohort.target(patient[0])
        turns.append(met[target] if target else 0)
        met[target] += 1
    return [patients[i] for i in sorted(range(len(patients)), key=turns.__getitem__)]


def _check_named(cohort: Cohort, named: dict[str, list[str]]) -> None:
    where: dict[str, str] = {}
    for part, names in named.items():
        for name in names:
            if name not in cohort.names:
                raise cohort.unknown(name)
            patient = cohort.group(name)
            if where.setdefault(patient, part) != part:
                raise ConfigError(
                    f"case '{name}' in '{part}' belongs to a patient who is in "
                    f"'{where[patient]}', too: scores would be too good"
                )
