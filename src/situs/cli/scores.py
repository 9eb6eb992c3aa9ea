"""The final table: what a run's scores say, in a terminal, a pipe or as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.markup import escape
from rich.padding import Padding
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


# Narrower than this, the table would break its words.
_TABLE_COLUMNS = 136
_INDENT, _DEEPER = (0, 0, 0, 2), (0, 0, 0, 6)


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
    if out.width < _TABLE_COLUMNS:
        _print_lines(observations)
    else:
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
    for heading in ("now", *_levels(None)):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict")
    for title, scores in _sections(observations):
        for number, score in enumerate(scores):
            table.add_row("" if number else escape(title), *_score_cells(score))
    return table


def _sections(observations: Sequence[Observation]) -> Iterator[tuple[str, Sequence[Score]]]:
    for observation in observations:
        prefix = f"{observation.method}: " if len(observations) > 1 else ""
        for section in observation.sections:
            yield text.printable(prefix + section.title), section.scores


def _levels(score: Score | None) -> dict[str, float | None]:
    """What a score is held against, as the table calls it."""
    called = {"guessing": "chance"}
    names = ("guessing", "constant", "emptied", "shuffled", "untrained")
    return {name: getattr(score, called.get(name, name), None) for name in names}


def _score_cells(score: Score) -> tuple[str | Text, ...]:
    return (
        _named(score),
        Text(text.quantity(score.value, score.unit), style="bold"),
        *(text.quantity(level, score.unit) for level in _levels(score).values()),
        _judged(score),
    )


def _named(score: Score) -> Text:
    return Text(f"{verdicts.label(score)} ({'↓' if score.better == 'lower' else '↑'})")


def _judged(score: Score) -> Text:
    return Text(verdicts.judged(score), style=_VERDICT_STYLE[verdicts.mark(score)])


def _print_lines(observations: Sequence[Observation]) -> None:
    """The same facts where nine columns would leave a letter or two to each."""
    for title, scores in _sections(observations):
        if scores:
            out.print(Text(title, style="bold"))
        for score in scores:
            value = Text(text.quantity(score.value, score.unit), style="bold")
            out.print(Padding(Text("  ").join((_named(score), value, _judged(score))), _INDENT))
            known = ", ".join(
                f"{name} {text.quantity(level, score.unit)}"
                for name, level in _levels(score).items()
                if level is not None
            )
            if known:
                out.print(Padding(Text(known, style="dim"), _DEEPER))
