"""Tables of results for the terminal; what they say comes from the results alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from situs.text import duration

if TYPE_CHECKING:
    from situs.demo.demo import DemoResult
    from situs.planning import RoleSummary
    from situs.transfer.probe import ProbeResult
    from situs.transfer.result import Result

_DIGITS = {"hd95_mm": 2, "cases": 0, "hd95_undefined": 0}


def finetuned(result: Result) -> RenderableType:
    """A row a class, and the time a fine-tuning took."""
    from situs.transfer.result import HEADINGS

    keys = list(result.scores)
    table = Table(title=f"{result.task}, {_cases('test', result.split['test'])}")
    table.add_column("class")
    for key in keys:
        table.add_column(HEADINGS.get(key, key), justify="right")
    for name, row in result.classes.items():
        table.add_row(escape(name), *(_cell(key, row.get(key)) for key in keys))
    table.add_section()
    # The counts are sums over classes there, and the title counts the cases.
    means = {**result.scores, "cases": None}
    table.add_row("mean", *(_cell(key, means[key]) for key in keys), style="bold")
    start = f"from {result.method} weights"
    if result.method in ("", "none"):  # as those of a fine-tuning that began with none
        start = "from scratch" if result.init == "none" else f"from the weights of {result.init}"
    words = f"{_cases('labelled', result.split['train'])}, {start}; {_spent(result.seconds)}; "
    return Group(table, escape(f"{words}{result.folder}"))


def _cases(kind: str, names: Sequence[str]) -> str:
    return f"{len(names)} {kind} case{'' if len(names) == 1 else 's'}"


def probed(result: ProbeResult) -> RenderableType:
    """A row a probe."""
    table = Table(title=f"{result.what} from frozen features: balanced accuracy")
    table.add_column("probe")
    for heading in ("pretrained", "random weights", "chance"):
        table.add_column(heading, justify="right")
    score = {(r.probe, r.features): r.balanced_accuracy for r in result.rows}
    for probe, words in (("knn", "nearest neighbours"), ("linear", "linear")):
        cells = [f"{score[probe, kind]:.3f}" for kind in ("pretrained", "random")]  # type: ignore[index]
        table.add_row(words, *cells, f"{result.chance:.3f}")
    counts = ", ".join(
        f"{part}: {result.samples[part]} {result.what.split()[0]}s of {len(names)} cases"
        for part, names in result.cases.items()
    )
    lines: list[RenderableType] = [table, f"{counts}; {duration(result.seconds)}"]
    if result.left_out:
        names = escape(", ".join(result.left_out))
        lines.append(f"left out, as all or none of the training scans have it: {names}")
    return Group(*lines)


def planned(rows: Sequence[RoleSummary]) -> Table:
    """A row a role of planes."""
    table = Table(box=None, pad_edge=False)
    table.add_column("plane")
    for heading in ("compared", "median angle (°)", "median distance (mm)"):
        table.add_column(heading, justify="right")
    for row in rows:
        numbers = (row.angle_deg, row.distance_mm)
        shown = ("–" if value is None else f"{value:.1f}" for value in numbers)
        table.add_row(escape(row.role), str(row.compared), *shown)
    return table


def demonstrated(result: DemoResult) -> RenderableType:
    """Scores, time and the verdict of the demo."""
    from situs.demo.demo import LABELLED

    table = Table(box=None, pad_edge=False)
    for heading in ("labelled scans", "Dice", "HD95 (mm)", "surface Dice"):
        table.add_column(heading, justify="left" if heading == "labelled scans" else "right")
    for name, arm in result.results.items():
        scores = [arm.scores[key] for key in ("dice", "hd95_mm", "surface_dice")]
        row = ["–" if score is None else f"{score:.3f}" for score in scores]
        table.add_row(f"{LABELLED}, {name}", *row)
    planes: list[RenderableType] = []
    if result.planes:
        planes = ["planes of held-out studies, planned:", planned(result.planes)]
    return Group(
        *planes,
        table,
        result.account().sentence,
        f"time: {_spent(result.seconds)}",
        escape(f"report: {result.report}"),
    )


def _spent(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {duration(value)}" for name, value in seconds.items())


def _cell(key: str, value: float | None) -> str:
    return "–" if value is None else f"{value:.{_DIGITS.get(key, 3)}f}"
