"""What a score says, judged and in words: the same for the terminal, the report and the summary."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from situs import text
from situs.observation.score import Score

Verdict = Literal["better", "guessing", "worse", "given", "monitor", "unknown"]

VERDICTS: dict[Verdict, str] = {
    "better": "better than guessing",
    "guessing": "no better than guessing",
    "worse": "worse than guessing",
    "given": "holds by construction",
    "monitor": "watches for collapse",
    "unknown": "nothing to compare with",
}

# Without one value a sample there is no standard error; a difference smaller than this share
# of the reference is then not called a difference.
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


def verdict(score: Score) -> Verdict:
    """Whether the network beats :func:`reference` by more than its standard error allows.

    With one value a sample, a difference counts from two standard errors of their mean on;
    without, from 5 % of the reference on.
    """
    against = reference(score)
    if score.by_construction:
        return "given"
    if score.collapsed is not None:
        return "monitor"
    if against is None or not math.isfinite(score.value):
        return "unknown"
    margin = _NO_DIFFERENCE * abs(against[1])
    samples = np.asarray(score.samples, dtype=float)
    samples = samples[np.isfinite(samples)]
    if samples.size > 2:
        margin = 2 * float(samples.std(ddof=1)) / math.sqrt(samples.size)
    gain = (score.value - against[1]) * (1 if score.better == "higher" else -1)
    if gain > margin:
        return "better"
    return "worse" if gain < -margin else "guessing"


def skill(score: Score) -> float | None:
    """How far the score has come from :func:`reference` (0) to perfect (1), where that is known.

    Perfect is 0 for errors and distances, 100 for per cent, and 1 for scores without a unit.
    """
    against = reference(score)
    if against is None or not math.isfinite(score.value):
        return None
    perfect = 0.0 if score.better == "lower" else 100.0 if score.unit == "%" else 1.0
    span = perfect - against[1]
    if span * (1 if score.better == "higher" else -1) <= 0:
        return None
    return (score.value - against[1]) / span


def sentence(score: Score) -> str:
    """One line for a reader: ``"gap error 9.3 mm; guessing gives 31 mm"``."""
    line = f"{label(score)} {text.quantity(score.value, score.unit)}"
    against = reference(score)
    if against is None:
        return line
    return f"{line}; {against[0]} gives {text.quantity(against[1], score.unit)}"
