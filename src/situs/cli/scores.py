"""The final table: what a run's scores say, in a terminal, a pipe or as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from situs import text
from situs.cli.console import out
from situs.observation import Observation, Score, verdicts

_VERDICT_STYLE: dict[str, str] = {
    "anatomy": "green",
    "better": "green",
    "shortcut": "yellow",
    "guessing": "yellow",
    "worse": "red",
    "given": "dim",
    "monitor": "dim",
    "unknown": "dim",
}


def score_rows(observations: Iterable[Observation]) -> list[dict[str, Any]]:
    """Every score of every observation as plain data, for ``--json`` and for tests."""
    return [
        {
            "method": observation.method,
            "step": observation.step,
            "section": section.title,
            "score": score.name,
            "label": verdicts.label(score),
            "value": score.value,
            "unit": score.unit,
            "better": score.better,
            "chance": score.chance,
            "constant": score.constant,
            "emptied": score.emptied,
            "shuffled": score.shuffled,
            "untrained": score.untrained,
            "samples": len(score.samples),
            "patients": len(set(score.groups)) or None,
            "verdict": verdicts.verdict(score),
            "explained": verdicts.explanation(score),
        }
        for observation in observations
        for section in observation.sections
        for score in section.scores
    ]


def print_scores(observations: Sequence[Observation]) -> None:
    """The final table: each score with unit, chance and the best constant answer beside it.

    Args:
        observations: One a method (several for a composition).
    """
    if not observations:
        out.print(
            "nothing was observed: the run ended before its first look at held-out scans "
            "(observe_every says how often it looks); situs pretrain --resume goes on to it",
            soft_wrap=True,
        )
        return
    out.print(_score_table(observations))
    for observation in observations:
        for score in observation.scores.values():
            if verdicts.told_first(score):
                line = f"{verdicts.label(score)}: {verdicts.explanation(score)}"
                out.print(Text(text.printable(line), style="yellow"), soft_wrap=True)
        for warning in observation.warnings:
            line = text.printable(f"warning ({observation.method}): {warning}")
            out.print(Text(line, style="yellow"), soft_wrap=True)


def _score_table(observations: Sequence[Observation]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("sub-task")
    table.add_column("score")
    for heading in ("now", "guessing", "constant", "emptied", "shuffled", "untrained"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict")
    for observation in observations:
        prefix = f"{observation.method}: " if len(observations) > 1 else ""
        for section in observation.sections:
            title = escape(text.printable(prefix + section.title))
            for score in section.scores:
                table.add_row(title, *_score_cells(score))
                title = ""
    return table


def _score_cells(score: Score) -> tuple[str | Text, ...]:
    return (
        Text(f"{verdicts.label(score)} ({'↓' if score.better == 'lower' else '↑'})"),
        Text(text.quantity(score.value, score.unit), style="bold"),
        text.quantity(score.chance, score.unit),
        *(
            text.quantity(level, score.unit)
            for level in (score.constant, score.emptied, score.shuffled, score.untrained)
        ),
        Text(verdicts.judged(score), style=_VERDICT_STYLE[verdicts.mark(score)]),
    )
