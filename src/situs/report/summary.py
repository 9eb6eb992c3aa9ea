"""The first screen in words: what was trained on what, what it can do now, and did it help."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from situs import text
from situs.observation import Observation, Score, verdicts
from situs.observation.verdicts import Verdict
from situs.report.folder import RunFolder

_FEW_WARNING = "held-out scans were also trained on, so the scores are optimistic"


@dataclass(frozen=True)
class GaugeGroup:
    """The gauges of one sub-task."""

    section: str
    gauges: tuple[Gauge, ...]


@dataclass(frozen=True)
class Gauge:
    """One score between guessing and perfect.

    Attributes:
        label: Words.
        value: With its unit.
        reference: ``("guessing 44 mm", "constant 31 mm")``.
        verdict: Against the harder of the two.
        words: The verdict in words.
        skill: 0 at the reference, 1 at perfect, clipped for drawing; None where unknown.
        first: The same at the first observed step.
        better: Direction.
        mark: What the mark on the track is: ``"guessing"`` or ``"constant"``; empty where there
            is no track.
    """

    label: str
    value: str
    reference: tuple[str, ...]
    verdict: str
    words: str
    skill: float | None
    first: float | None
    better: str
    mark: str = ""


def headline(run: RunFolder) -> str:
    """The best result as one sentence, or what is missing for one."""
    best = _strongest(run.latest)
    if best is None:
        return "Nothing was observed yet" if not run.latest else "No score has a chance level"
    _, score = best
    against = verdicts.reference(score)
    judged = verdicts.verdict(score)
    line = f"{text.opening(verdicts.label(score))}: {text.quantity(score.value, score.unit)}"
    if against is None:
        return line
    other = f"{against[0]} gives {text.quantity(against[1], score.unit)}"
    if judged in {"better", "anatomy"}:
        told = f"; {verdicts.explanation(score)}" if verdicts.told_first(score) else ""
        return f"{line}, where {other}{told}"
    level = text.quantity(against[1], score.unit)
    worse = "worse than" if judged == "worse" else "no better than"
    return f"{line}, {worse} {against[0]} ({level})"


def sentences(run: RunFolder) -> list[str]:
    """What was trained on what, for how long, and in how many sub-tasks it learned something."""
    found = [_trained(run)]
    judged = Counter(
        _section_verdict(section.scores)
        for observation in run.latest
        for section in observation.sections
        if section.scores
    )
    known = sum(count for verdict, count in judged.items() if verdict != "unknown")
    if known:
        better = judged["better"] + judged["anatomy"]
        line = (
            f"On held-out scans it is better than guessing and a constant answer in "
            f"{better} of {known} sub-task{'s' if known != 1 else ''}"
        )
        if judged["better"] and any(
            verdicts.hardest(score) for o in run.latest for score in o.scores.values()
        ):
            line += f", in {judged['anatomy'] or 'none'} of them better than without anatomy"
        found.append(f"{line}.")
    found += [
        f"{text.opening(verdicts.label(score))}: {verdicts.explanation(score)}."
        for observation in run.latest
        for score in observation.scores.values()
        if verdicts.told_first(score)
    ]
    found += _audited(run)
    if run.record.held_out_is_training:
        found.append(f"Mind that {_FEW_WARNING}.")
    return found


def _audited(run: RunFolder) -> list[str]:
    """What the audit did, where there was one."""
    if not run.audit:
        return []
    return [
        f"Audited: the same configuration was trained for {text.count(int(run.audit['steps']))} "
        "steps on scans without anatomy, and what it reaches is shown where it is the harder level."
    ]


def gauges(run: RunFolder) -> list[GaugeGroup]:
    """Every score of the last observation, with where it stood at the first."""
    first: dict[tuple[str, str], Score] = {}
    if len(run.steps) > 1:
        for observation in run.at(run.steps[0]):
            first |= {(observation.method, n): s for n, s in observation.scores.items()}
    several = len(run.latest) > 1
    return [
        GaugeGroup(
            text.printable(f"{observation.method}: " * several + section.title),
            tuple(_gauge(s, first.get((observation.method, s.name))) for s in section.scores),
        )
        for observation in run.latest
        for section in observation.sections
        if section.scores
    ]


def warnings(run: RunFolder) -> list[str]:
    """The observations' own warnings, and what the run's record gives reason for."""
    found = [
        text.opening(text.printable(run.names.within(w)))
        for observation in run.latest
        for w in observation.warnings
    ]
    status = run.record.status
    if status == "running":
        found.append("The run had not ended when this report was written.")
    elif status not in {"finished", "unknown"}:
        # An error is told without the name that it has in Python.
        cause = re.sub(r"^[A-Z]\w+: ", "", text.printable(run.record.stopped_by or ""))
        found.append(f"The run stopped early{': ' + cause if cause else ''}. Go on with --resume.")
    if run.record.held_out_is_training:
        found.append(
            f"There were too few scans to hold any out: {_FEW_WARNING}. Add scans, or raise "
            "'held_out'."
        )
    for gone, kind, part in (
        (run.record.left_out, "", "took no further part"),
        (run.record.held_out_left_out, "held-out ", "are in no observation since"),
    ):
        if gone:
            found.append(
                f"{gone} {kind}scan{'s' if gone != 1 else ''} could not be read any more and "
                f"{part}. 'situs check' on the store names them, 'situs prepare --verify' mends "
                "them."
            )
    waiting = run.record.data_wait_share or 0.0
    if waiting > 0.3:
        found.append(
            f"{100 * waiting:.0f} % of the training time was spent waiting for data. Raise "
            "'workers', or prepare a store first."
        )
    return list(dict.fromkeys(found))


def _trained(run: RunFolder) -> str:
    record = run.record
    parts = f"Pretrained with {run.method}"
    if scans := record.scans:
        parts += f" on {scans} {_modalities(run)}scan{'s' if scans != 1 else ''}"
        if record.held_out_items and not record.held_out_is_training:
            parts += f" ({record.held_out_items} held out)"
    if step := record.step or (run.steps[-1] if run.steps else None):
        parts += f", {text.count(step)} steps"
    if seconds := record.wall_seconds:
        parts += f" in {text.duration(seconds)}"
    if gpus := record.hardware.gpus:
        parts += f" on {gpus[0]}"
    elif cores := record.hardware.cores:
        parts += f" on {cores} CPU core{'s' if cores != 1 else ''}"
    return text.printable(parts) + "."


def _modalities(run: RunFolder) -> str:
    kinds = Counter(row.modality for row in run.data.records)
    known = [kind for kind, _ in kinds.most_common() if kind and kind != "unknown"]
    return f"{' and '.join(known)} " if 0 < len(known) <= 3 else ""


def levels(score: Score) -> tuple[str, ...]:
    """Everything that the score is compared with, in words: ``("guessing 44 mm", …)``."""
    return tuple(
        f"{name} {text.quantity(value, score.unit)}"
        for name, value in (
            ("guessing", score.chance),
            ("constant", score.constant),
            ("emptied scans", score.emptied),
            ("shuffled scans", score.shuffled),
            ("untrained", score.untrained),
            ("collapsed features", score.collapsed),
        )
        if value is not None
    )


def _gauge(score: Score, first: Score | None) -> Gauge:
    judged = verdicts.verdict(score)
    return Gauge(
        label=verdicts.label(score),
        value=text.quantity(score.value, score.unit),
        reference=levels(score),
        mark=_mark(score),
        verdict=verdicts.mark(score),
        words=verdicts.judged(score),
        skill=None if judged == "given" else _clipped(verdicts.skill(score)),
        first=_clipped(verdicts.skill(first)) if first else None,
        better=verdicts.direction(score),
    )


def _mark(score: Score) -> str:
    against = verdicts.reference(score)
    if against is None or verdicts.skill(score) is None or score.by_construction:
        return ""
    return "guessing" if against[0] == "guessing" else "constant"


def _clipped(skill: float | None) -> float | None:
    return None if skill is None else min(max(skill, -0.25), 1.0)


def _section_verdict(scores: Sequence[Score]) -> Verdict:
    """A sub-task is solved better than guessing when its first comparable score is.

    Where scores come with one value a sample, the others (a rank of features, say) watch the
    network's health, not the sub-task.
    """
    asked = [s for s in scores if s.samples] or list(scores)
    judged = [v for v in map(verdicts.verdict, asked) if v not in {"unknown", "given", "monitor"}]
    return judged[0] if judged else "unknown"


def _strongest(observations: Sequence[Observation]) -> tuple[str, Score] | None:
    """The first score in a physical unit that has a reference: methods put theirs first."""
    known = [
        (section.title, score)
        for observation in observations
        for section in observation.sections
        for score in section.scores
        if verdicts.reference(score) is not None and not score.by_construction
    ]
    physical = [item for item in known if item[1].unit in {"mm", "°"}]
    return next(iter(physical or known), None)
