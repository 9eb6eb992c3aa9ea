"""What a score says, judged and in words: the same for the terminal, the report and the summary."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from situs import text
from situs.observation.score import Score

Verdict = Literal["worse", "guessing", "better", "anatomy", "given", "monitor", "unknown"]

# The first four are steps, each above the one before.
VERDICTS: dict[Verdict, str] = {
    "worse": "worse than guessing",
    "guessing": "no better than guessing or a constant answer",
    "better": "better than guessing and a constant answer",
    "anatomy": "better than without anatomy",
    "given": "holds by construction",
    "monitor": "watches for collapse",
    "unknown": "nothing to compare with",
}

# A share of the gain from which on what the controls explain is told first.
TELLING = 0.25

_CONTROLS = {
    "emptied": "read off the scan's border",
    "shuffled": "reached on shuffled scans",
    "untrained": "reached by an untrained network",
}

# Without one value a sample there is no standard error; a difference smaller than this share
# of the way from the reference to perfect is then not called a difference. Of the reference itself
# it would be nothing where that is 0, as for R².
_NO_DIFFERENCE = 0.05


def label(score: Score) -> str:
    """The score's words, or its key made readable."""
    return text.printable(score.label or score.name.replace("_", " ").replace("/", " · "))


def direction(score: Score) -> str:
    """Which way is better, in words."""
    return f"{score.better} is better"


def reference(score: Score) -> tuple[str, float] | None:
    """The harder of guessing and the best constant answer: what the network has to beat."""
    known = [
        (name, value)
        for name, value in (("guessing", score.chance), ("a constant answer", score.constant))
        if value is not None and math.isfinite(value)
    ]
    if not known:
        return None
    return (min if score.better == "lower" else max)(known, key=lambda item: item[1])


def controls(score: Score) -> dict[str, float]:
    """What was reached without anatomy or without training, by the name of the control."""
    found = {name: getattr(score, name) for name in _CONTROLS}
    return {n: v for n, v in found.items() if v is not None and math.isfinite(v)}


def hardest(score: Score) -> tuple[str, float] | None:
    """The control that comes closest to the network, or beats it, and what it reaches."""
    known = controls(score).items()
    if not known:
        return None
    return (min if score.better == "lower" else max)(known, key=lambda item: item[1])


def verdict(score: Score) -> Verdict:
    """How far up the four steps of :data:`VERDICTS` the score is, by more than chance allows.

    A difference counts from :func:`margin` on. What no control was asked of is at most
    ``"better"``.
    """
    against = reference(score)
    if score.by_construction:
        return "given"
    if score.collapsed is not None:
        return "monitor"
    if against is None or not math.isfinite(score.value):
        return "unknown"
    if _gain(score, against[1]) <= margin(score, against[1]):
        guess = score.chance if score.chance is not None else against[1]
        return "worse" if _gain(score, guess) < -margin(score, guess) else "guessing"
    control = hardest(score)
    if control is None or _gain(score, control[1]) <= margin(score, control[1]):
        return "better"
    return "anatomy"


def judged(score: Score) -> str:
    """The verdict in words, with the number of patients that it is over."""
    found = verdict(score)
    line = VERDICTS[found]
    against = reference(score)
    levels = [level for level in (score.chance, score.constant) if level is not None]
    both = len(levels) > 1
    if found == "better" and against is not None:
        if not both:
            line = f"better than {against[0]}"
        if hardest(score) is not None:
            line += ", but no better than without anatomy"
    if found == "guessing" and against is not None:
        if _gain(score, against[1]) > 0:
            line = f"not clearly better than {against[0]}"
        elif not both:
            line = f"no better than {against[0]}"
        elif any(_gain(score, level) > 0 for level in levels):
            line = "between guessing and a constant answer"
    if found in {"given", "monitor", "unknown"}:
        return line
    if not score.samples:
        return f"{line} (no interval)"
    if not score.groups:
        return line
    count = len(set(score.groups))
    # One patient's samples tell nothing of the next patient: there is no interval over them.
    return f"{line} ({'1 patient, no interval' if count == 1 else f'over {count} patients'})"


def mark(score: Score) -> str:
    """The verdict as a class of a page: ``"shortcut"`` where a control explains the gain."""
    found = verdict(score)
    return "shortcut" if found == "better" and hardest(score) is not None else found


def margin(score: Score, level: float) -> float:
    """How far a score must be from ``level`` for the difference to count.

    With one value a sample and their patients: the half width of the 95 % interval of the mean
    (Student's t), whose standard error counts patients, not samples (the cluster-robust one),
    since samples of one patient are not independent. Without patients two standard errors over
    samples. Without either, or with one patient, 5 % of ``level``.
    """
    samples = np.asarray(score.samples, dtype=float)
    finite = np.isfinite(samples)
    if len(score.groups) == len(samples) > 0:
        groups = np.asarray(score.groups)[finite]
        count = len(np.unique(groups))
        if count > 1:
            deviation = samples[finite] - samples[finite].mean()
            sums = np.bincount(groups, deviation)
            error = math.sqrt(count / (count - 1) * float((sums**2).sum())) / len(deviation)
            return float(stdtrit(count - 1, 0.975)) * error
    elif finite.sum() > 2:
        return 2 * float(samples[finite].std(ddof=1)) / math.sqrt(finite.sum())
    return _NO_DIFFERENCE * abs(_perfect(score) - level)


def explained(score: Score, control: str) -> float | None:
    """Share of the gain over :func:`reference` that a control reaches too, 0 or more.

    None where there is no gain to explain, or the control is not known.
    """
    against, reached = reference(score), controls(score).get(control)
    if against is None or reached is None or verdict(score) not in {"better", "anatomy"}:
        return None
    return max(0.0, _gain_of(score, reached, against[1]) / _gain(score, against[1]))


def explanation(score: Score) -> str:
    """What the controls explain of the gain, as a sentence; empty where they explain nothing.

    For instance ``"of the 3.5° gained over a constant answer, 3.2° are read off the scan's
    border"``.
    """
    against = reference(score)
    shares = {name: explained(score, name) for name in _CONTROLS}
    known = {name: share for name, share in shares.items() if share}
    if against is None or not known:
        return ""
    name = max(known, key=lambda control: known[control])
    gain = abs(score.value - against[1])
    part = text.quantity(min(known[name], 1.0) * gain, score.unit)
    whole = text.quantity(gain, score.unit)
    return f"of the {whole} gained over {against[0]}, {part} are {_CONTROLS[name]}"


def told_first(score: Score) -> bool:
    """Whether controls explain so much of the gain that no one should read of it without them."""
    return any((explained(score, name) or 0.0) > TELLING for name in _CONTROLS)


def _gain(score: Score, level: float) -> float:
    return _gain_of(score, score.value, level)


def _gain_of(score: Score, value: float, level: float) -> float:
    return (value - level) * (1 if score.better == "higher" else -1)


def _perfect(score: Score) -> float:
    return 0.0 if score.better == "lower" else 100.0 if score.unit == "%" else 1.0


def skill(score: Score) -> float | None:
    """How far the score has come from :func:`reference` (0) to perfect (1), where that is known.

    Perfect is 0 for errors and distances, 100 for per cent, and 1 for scores without a unit.
    """
    against = reference(score)
    if against is None or not math.isfinite(score.value):
        return None
    span = _perfect(score) - against[1]
    if span * (1 if score.better == "higher" else -1) <= 0:
        return None
    return (score.value - against[1]) / span


def sentence(score: Score) -> str:
    """One line for a reader: ``"gap error 9.3 mm; guessing gives 31 mm"``."""
    line = f"{label(score)} {text.quantity(score.value, score.unit)}"
    against = reference(score)
    if against is None:
        return line
    line += f"; {against[0]} gives {text.quantity(against[1], score.unit)}"
    return f"{line}; {explanation(score)}" if told_first(score) else line
