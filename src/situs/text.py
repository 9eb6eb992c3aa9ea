"""Numbers, times and foreign text in words: the same in the terminal, the report and a notebook."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# Settings that are paths or names of cases, and words that stand there for something else.
_PATHS = frozenset({"data", "out", "init", "unlabelled", "rules", "train", "validation", "test"})
_WORDS = frozenset({"none", "given"})
# What a user names for what it is, not for whose scans it holds.
_MADE = frozenset({"out", "init", "run", "weights", "rules"})
_ABSOLUTE = re.compile(r"[/~\\]|\.\.?[/\\]|[A-Za-z]:[/\\]|file:")
_RELATIVE = re.compile(r"[^()\[\]{}^$*|:,\s]+(/[^()\[\]{}^$*|:,\s]+)+")

# Below this nobody measures lengths and angles: it is a rounding error.
_PHYSICAL = frozenset({"mm", "°", "%"})
_TOO_SMALL = 1e-3


def printable(text: str) -> str:
    """Text from a header or a file name without control characters (terminals obey them)."""
    return "".join("�" if unicodedata.category(c) in {"Cc", "Cf", "Cs"} else c for c in text)


def printable_lines(text: str) -> str:
    """:func:`printable` of each line; the line breaks stay."""
    return "\n".join(printable(line) for line in text.split("\n"))


def without_folders(
    config: Any, key: str = "", called: Callable[[str], str] = lambda name: name
) -> Any:
    """A configuration whose paths are shortened to their last part, for pages that are passed on.

    Names of folders may hold patients and dates.

    Args:
        config: A value, or a mapping or sequence of such.
        key: What the value stands under: paths and names are what stands under the name of
            one, and whatever begins as an absolute path does, or reads like a relative one.
        called: What is shown for the last part of a path to data. Folders that situs made (runs,
            weights) are called what they are called.
    """
    if isinstance(config, Mapping):
        return {name: without_folders(value, str(name), called) for name, value in config.items()}
    if isinstance(config, list | tuple):
        return [without_folders(value, key, called) for value in config]
    if not isinstance(config, str) or config in _WORDS:
        return config
    if key in _PATHS or _ABSOLUTE.match(config) or _RELATIVE.fullmatch(config):
        last = re.split(r"[/\\]", config.rstrip("/\\"))[-1]
        return (last if key in _MADE else called(last)) if last else "/"
    return config


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


def times(size: Iterable[int | str]) -> str:
    """A size in voxels or pixels, for instance ``"96×96×64"``."""
    return "×".join(map(str, size))


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


def size(count: float) -> str:
    """Bytes in words.

    Examples:
        >>> size(3 * 2**30), size(160 * 1024), size(12)
        ('3.0 GiB', '160.0 KiB', '12 bytes')
    """
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{count / 1024**power:.1f} {unit}"
    return f"{count:.0f} bytes"


def duration(seconds: float) -> str:
    """Seconds as a person would say them.

    Example:
        >>> duration(41), duration(250), duration(7500)
        ('41 s', '4 min 10 s', '2 h 05 min')
    """
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
