"""Numbers and scores in words: the same in the terminal, the report and a notebook."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from situs.observation import Score

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

_WORD = re.compile(r"[\w-]+")

# Settings that are paths.
_PATHS = frozenset({"data", "out", "init", "unlabelled", "rules"})
_ABSOLUTE = re.compile(r"[/~\\]|\.\.?[/\\]|[A-Za-z]:[/\\]|file:")

# Below this nobody measures lengths and angles: it is a rounding error.
_PHYSICAL = frozenset({"mm", "°", "%"})
_TOO_SMALL = 1e-3


def printable(text: str) -> str:
    """Text from a header or a file name without control characters (terminals obey them)."""
    return "".join("�" if unicodedata.category(c) in {"Cc", "Cf", "Cs"} else c for c in text)


def printable_lines(text: str) -> str:
    """:func:`printable` of each line; the line breaks stay."""
    return "\n".join(printable(line) for line in text.split("\n"))


def without_folders(config: Any, key: str = "") -> Any:
    """A configuration whose paths are cut to their last part, for pages that are passed on.

    Names of folders may hold patients and dates.

    Args:
        config: A value, or a mapping or sequence of such.
        key: What the value stands under: paths are what stands under the name of one, and
            whatever begins as an absolute path does.
    """
    if isinstance(config, Mapping):
        return {name: without_folders(value, str(name)) for name, value in config.items()}
    if isinstance(config, list | tuple):
        return [without_folders(value, key) for value in config]
    if isinstance(config, str) and (key in _PATHS or _ABSOLUTE.match(config)):
        return re.split(r"[/\\]", config.rstrip("/\\"))[-1] or "/"
    return config


def named(text: str, names: Mapping[str, str]) -> str:
    """The text with keys of scans replaced by the names that their user knows them by."""
    return _WORD.sub(lambda match: names.get(match[0], match[0]), text) if names else text


def number(value: float | None) -> str:
    """Three significant digits at most, never scientific between 0.001 and a million."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e6 or 0 < size < 1e-3:
        text = f"{value:.2g}"
    else:
        text = f"{value:.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"
    return text.replace("-", "−")


def count(value: float) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{round(value):,}".replace(",", "\u202f")


def quantity(value: float | None, unit: str) -> str:
    """A number with its unit, for instance ``"9.31 mm"``, ``"12.4°"``, ``"71.0 %"``."""
    if unit in _PHYSICAL and value is not None and 0 < abs(value) < _TOO_SMALL:
        return f"< {quantity(_TOO_SMALL, unit)}"
    text = number(value)
    if not unit or text == "–":
        return text
    return text + unit if unit == "°" else f"{text} {unit}"


def duration(seconds: float) -> str:
    """Seconds as a person would say them: ``"41 s"``, ``"4 min 10 s"``, ``"2 h 05 min"``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def opening(text: str) -> str:
    """The text with a capital first letter, the rest as it is."""
    return text[:1].upper() + text[1:]


def label(score: Score) -> str:
    """The score's words, or its key made readable."""
    return printable(score.label or score.name.replace("_", " ").replace("/", " · "))


def direction(score: Score) -> str:
    """Which way is better, in words."""
    return f"{score.better} is better"


def reference(score: Score) -> tuple[str, float] | None:
    """The harder of guessing and the best constant answer: what the network has to beat."""
    known = [
        (name, value)
        for name, value in (("guessing", score.chance), ("a constant answer", score.trivial))
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
    text = f"{label(score)} {quantity(score.value, score.unit)}"
    against = reference(score)
    if against is None:
        return text
    return f"{text}; {against[0]} gives {quantity(against[1], score.unit)}"
