"""One visual language for every figure: colours, line styles and markers by meaning.

Prediction and truth differ in colour *and* in line style and marker, so that they stay apart in
black and white and for every kind of colour vision. Charts are drawn with placeholder colours
that :mod:`situs.report.svg` turns into CSS variables, so that the same figure reads well on a
light page, on a dark one and on paper. On scans, which are dark wherever they are shown, the
bright variants are used as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


@dataclass(frozen=True)
class Tone:
    """A colour by meaning: its placeholder in charts, and what it is on light, dark and scans."""

    css: str
    placeholder: str
    light: str
    dark: str
    on_scan: str


# Blue/orange and teal/magenta stay apart under protanopia, deuteranopia and tritanopia.
TONES = {
    tone.css: tone
    for tone in (
        Tone("ink", "#010101", "#17212b", "#e8edf2", "#ffffff"),
        Tone("muted", "#010102", "#5a6772", "#9aa7b3", "#c9d3dc"),
        Tone("rule", "#010103", "#d9dfe5", "#303b46", "#6b7883"),
        Tone("panel", "#010104", "#ffffff", "#161d25", "#000000"),
        Tone("true", "#010105", "#0b62ae", "#6cb8f7", "#6cc8ff"),
        Tone("predicted", "#010106", "#c24a00", "#ff9f52", "#ffa24a"),
        Tone("right", "#010107", "#00795f", "#3fd1ac", "#3fe0b8"),
        Tone("wrong", "#010108", "#b3246b", "#ff7fb8", "#ff7ab6"),
        Tone("view", "#010109", "#5b4bb7", "#b3a6ff", "#cbbdff"),
        # Views that stand beside one another: every one its own.
        Tone("view-2", "#01010c", "#4c7a00", "#b9e35c", "#c3f05a"),
        Tone("view-3", "#01010d", "#8c4a3c", "#e8b4a6", "#f6d5cb"),
        Tone("chunk", "#01010a", "#8a6d00", "#e8c547", "#f5d76a"),
        Tone("guess", "#01010b", "#7d8894", "#8793a0", "#aab4be"),
    )
}

# What a line or a marker looks like, by role; the same words as ``BoxesPanel.roles``.
LINES: dict[str, dict[str, Any]] = {
    "true": {"linestyle": "-", "linewidth": 1.8},
    "predicted": {"linestyle": (0, (4, 2)), "linewidth": 1.8},
    "right": {"linestyle": "-", "linewidth": 1.4},
    "wrong": {"linestyle": (0, (1.2, 1.6)), "linewidth": 1.4},
    "view": {"linestyle": "-", "linewidth": 1.1},
    "view-2": {"linestyle": (0, (7, 1.2)), "linewidth": 1.4},
    "view-3": {"linestyle": (0, (6, 1.2, 1.2, 1.2)), "linewidth": 1.4},
    "chunk": {"linestyle": (0, (5, 1.5)), "linewidth": 1.2},
    "guess": {"linestyle": (0, (1, 1.5)), "linewidth": 1.2},
}
VIEWS = ("view", "view-2", "view-3")
"""Roles of the first, second, third view; they repeat after the last."""
MARKERS = {"true": "o", "predicted": "D", "right": "o", "wrong": "X"}

# Series that mean nothing in particular (loss terms, axes): the Okabe-Ito order without the
# colours that roles use on scans, readable on light and dark alike.
SERIES = ("#3b8fd1", "#d9822b", "#2a9d83", "#b565a7", "#a08a1f", "#7d8894", "#5f6fd0", "#c9545d")
SERIES_LINES = ("-", (0, (5, 1.5)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)))
SERIES_MARKERS = ("o", "D", "^", "s", "v", "P", "X", "*")

# Label maps: index 0 is background.
LABELS = ("#000000", "#56b4e9", "#e69f00", "#2fc49a", "#f28fc8", "#f0e442", "#9f8cff", "#ff8a65")
# Where a label map is wrong: nothing, missed, invented, another class.
ERRORS = ("#000000", "#ff7ab6", "#ffa24a", "#cbbdff")

HEAT = "inferno"  # perceptually uniform, also in grey
MATRIX = "cividis"  # the same to every kind of colour vision
DIFFERENCE = "PuOr"

_RC: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "situs",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11.0,
    "axes.titlesize": 11.5,
    "axes.labelsize": 11.0,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": TONES["rule"].placeholder,
    "axes.labelcolor": TONES["muted"].placeholder,
    "axes.titlecolor": TONES["ink"].placeholder,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": TONES["ink"].placeholder,
    "xtick.color": TONES["rule"].placeholder,
    "ytick.color": TONES["rule"].placeholder,
    "xtick.labelcolor": TONES["muted"].placeholder,
    "ytick.labelcolor": TONES["muted"].placeholder,
    "xtick.labelsize": 11.0,
    "ytick.labelsize": 11.0,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "grid.color": TONES["rule"].placeholder,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 11.0,
    "lines.solid_capstyle": "round",
    "image.interpolation": "none",
}


def chart(role: str) -> str:
    """The colour of ``role`` in a chart: a placeholder that follows the page's theme."""
    return TONES[role].placeholder


def on_scan(role: str) -> str:
    """The colour of ``role`` over a scan."""
    return TONES[role].on_scan


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of ``width`` by ``height`` CSS pixels in the house style.

    It never touches pyplot's global state, so that it can be used beside a user's own figures.

    Yields:
        The figure, to be drawn and saved inside.
    """
    with mpl.rc_context(_RC):
        # The SVG backend counts 72 units an inch; one unit is one CSS pixel in the page.
        yield Figure(figsize=(width / 72, height / 72))


def axes(
    figure: Figure, left: float = 50, bottom: float = 38, right: float = 8, top: float = 6
) -> Axes:
    """Axes that fill a figure but for margins in CSS pixels.

    Fixed margins draw three times as fast as a layout engine, and neighbouring figures align.
    """
    width, height = figure.get_size_inches() * 72
    return figure.add_axes(
        (
            left / width,
            bottom / height,
            max(0.05, 1 - (left + right) / width),
            max(0.05, 1 - (bottom + top) / height),
        )
    )


def colour_bar(figure: Figure, of: Axes, image: ScalarMappable) -> None:
    """A slim colour bar at the right edge of ``of``; leave 42 pixels there."""
    width, _ = figure.get_size_inches() * 72
    place = of.get_position()
    own = figure.add_axes((place.x1 + 8 / width, place.y0, 7 / width, place.height))
    bar = figure.colorbar(image, cax=own)
    bar.outline.set_visible(False)
    own.tick_params(length=0, labelsize=10.5, pad=2)
    own.yaxis.set_major_locator(MaxNLocator(5))


def css_variables() -> str:
    """The page's colours: light by default, dark where the reader's system asks for it."""
    light = "".join(f"--{tone.css}:{tone.light};" for tone in TONES.values())
    dark = "".join(f"--{tone.css}:{tone.dark};" for tone in TONES.values())
    return (
        f":root,:root[data-theme=light]{{{light}color-scheme:light}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}color-scheme:dark}}}}"
        f"@media screen{{:root[data-theme=dark]{{{dark}color-scheme:dark}}"
        f":root[data-theme=light]{{{light}color-scheme:light}}}}"
    )
