"""Splits by patient: stratified, fixed by a seed, and refused where they would leak."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from situs.catalog.links import linked
from situs.errors import SitusError, setting
from situs.splits.split import Split
from situs.studies.cases import CaseFacts, near_duplicates


class LeakError(SitusError):
    """Test scans that a training set would know already."""


def without_leaks(
    facts: Sequence[CaseFacts], correlation: float, action: str = "refuse"
) -> list[CaseFacts]:
    """The cases, with near-duplicates of different patients merged into one group.

    Raises:
        LeakError: If there are any and ``action`` is ``"refuse"``; names them.
    """
    pairs = near_duplicates(facts, correlation)
    if pairs and action == "refuse":
        shown = "; ".join(f"{a.name} and {b.name} ({r:.3f})" for a, b, r in pairs[:5])
        raise LeakError(
            f"{len(pairs)} pairs of cases are (nearly) the same scan, but count as different "
            f"patients: {shown}{'; …' if len(pairs) > 5 else ''}. Remove one of each, tell "
            "patients apart with 'dataset.patient', set near_duplicates: group, or raise "
            "duplicate_correlation if they only look alike"
        )
    groups = linked([f.group for f in facts], [(a.group, b.group) for a, b, _ in pairs])
    return [replace(f, group=groups[f.group]) for f in facts]


def split_cases(
    facts: Sequence[CaseFacts], test: int | str, validation: int, seed: int, fold: int = 0
) -> Split:
    """Split cases by group, in proportion to strata.

    Args:
        facts: Of all cases.
        test: At least so many test cases, or ``"given"``: those the data set calls test.
        validation: At least so many validation cases.
        seed: Fixes the split.
        fold: Of a cross-validation. Folds are cut from one order one after another, so that no
            case is tested twice; the last may have fewer than ``test``.

    Raises:
        LeakError: If ``"given"`` divides a patient.
        SitusError: If nothing is left to train on.
    """
    order = [list(group) for group in _interleaved(facts, np.random.default_rng(seed))]
    if test == "given":
        chosen = [g for g in order if any(f.given == "test" for f in g)]
        torn = [g[0].group for g in chosen if any(f.given != "test" for f in g)]
        if torn:
            raise LeakError(
                f"the data set's own test split divides {len(torn)} patients: {torn[:5]}"
            )
        rest = [g for g in order if g not in chosen]
    else:
        chosen, rest = _take(order, int(test))
        tested_before: list[list[CaseFacts]] = []
        for _ in range(fold):
            tested_before += chosen
            chosen, rest = _take(rest, int(test))
        rest = rest + tested_before
    tuning, pool = _take(rest, validation)
    if not chosen or not pool:
        times = f" in each of {fold + 1} folds" if fold else ""
        raise SitusError(
            f"{len(facts)} cases in {len(order)} patients cannot give test ({test}{times}), "
            f"validation ({validation}) and training cases; ask for fewer"
        )
    return Split(train=_names(pool), validation=_names(tuning), test=_names(chosen))


def training_cases(
    facts: Sequence[CaseFacts],
    pool: Sequence[str],
    labels: int,
    seed: int,
    by_stratum: bool,
    by_patient: bool = False,
) -> tuple[str, ...]:
    """The ``labels`` cases that seed ``seed`` trains on; smaller sets lie inside larger ones.

    Args:
        facts: Of all cases.
        pool: Cases to draw from.
        labels: How many.
        seed: Fixes the draw.
        by_stratum: Draw classes in proportion (classification). For segmentation the strata are
            known only from labels, which a real user would not have yet: draw blindly.
        by_patient: ``labels`` counts patients, each with all of their cases.

    Raises:
        SitusError: If the pool is too small.
    """
    inside = set(pool)
    drawn = [f for f in facts if f.name in inside]
    if not by_stratum:
        drawn = [replace(f, stratum="") for f in drawn]
    order = _interleaved(drawn, np.random.default_rng([seed, 1]))
    if not by_patient:
        order = [[fact] for group in order for fact in group]
    if len(order) < labels:
        raise SitusError(
            f"{labels} labelled {'patients' if by_patient else 'cases'} were asked for, but only "
            f"{len(order)} are left to train on; lower {setting('labels')}, {setting('test')} or "
            f"{setting('validation')}"
        )
    return _names(order[:labels])


def _interleaved(facts: Sequence[CaseFacts], rng: np.random.Generator) -> list[list[CaseFacts]]:
    """Groups in an order of which every beginning has about the strata of the whole."""
    groups: dict[str, list[CaseFacts]] = defaultdict(list)
    for fact in sorted(facts, key=lambda f: f.name):
        groups[fact.group].append(fact)
    strata: dict[str, list[str]] = defaultdict(list)
    for name, members in groups.items():
        strata[members[0].stratum].append(name)
    placed: list[tuple[float, float, str]] = []
    for names in (strata[s] for s in sorted(strata)):
        # Systematic sampling: the i-th of n stands at (i + u) / n of the order.
        offset = rng.random()
        for i, name in enumerate(rng.permutation(names).tolist()):
            placed.append(((i + offset) / len(names), rng.random(), name))
    return [groups[name] for _, _, name in sorted(placed)]


def _take(
    order: list[list[CaseFacts]], count: int
) -> tuple[list[list[CaseFacts]], list[list[CaseFacts]]]:
    taken = 0
    for i, group in enumerate(order):
        if taken >= count:
            return order[:i], order[i:]
        taken += len(group)
    return order, []


def _names(groups: Sequence[Sequence[CaseFacts]]) -> tuple[str, ...]:
    return tuple(f.name for group in groups for f in group)
