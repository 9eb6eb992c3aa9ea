"""The final table, in a pipe and as rows."""

from __future__ import annotations

import logging
import re

import pytest
from rich.console import Group
from rich.table import Table
from scores_made import score

from situs.cli.console import hush, log_to_terminal, out
from situs.cli.scores import print_scores, score_rows
from situs.observation import Observation, Score, Section

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f\r]")


def observation(*scores: Score, **changes: object) -> Observation:
    section = Section("Gap matrix [bold]", "How far apart?", scores)
    return Observation("spatial", 200, (section,), **changes)  # type: ignore[arg-type]


def test_the_table_in_a_pipe_has_no_control_characters_and_keeps_every_fact(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # as wide as it needs, unless somebody asks
    hostile = score(label="[red]evil[/] \x1b[31m" + "x" * 90)
    seen = observation(score(), hostile, warnings=("features collapsed; raise the weight",))
    print_scores([seen])
    text = capsys.readouterr().out
    assert not CONTROL.search(text)
    assert "Gap matrix [bold]" in text
    assert "gap error" in text
    assert "9.31 mm" in text
    assert "44.0 mm" in text
    assert "31.2 mm" in text
    assert "[red]evil[/]" in text
    assert "features collapsed" in text


@pytest.mark.parametrize("columns", [40, 80, 100, 200])
def test_a_terminal_of_any_width_shows_every_fact_whole(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    full = score(label="gap vector error", emptied=41.5, shuffled=42.5, untrained=43.5)
    print_scores([observation(full, score())])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert len(lines) <= 2 * 2 * (120 // columns + 1) + 2
    shown = " ".join(" ".join(lines).split())
    assert "…" not in shown
    for fact in ("Gap matrix [bold]", "gap vector error (↓)", "9.31 mm", "44.0 mm", "31.2 mm"):
        assert fact in shown
    for fact in ("41.5 mm", "42.5 mm", "43.5 mm", "guessing", "emptied", "untrained"):
        assert fact in shown
    assert "than" in shown, "the verdict"


def test_no_line_is_wrapped_where_no_terminal_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    sentence = "a sentence that goes on and on, " * 100 + "and ends"
    table = Table("name", "what")
    table.add_row("one", sentence)
    log_to_terminal()
    out.print(table)
    out.print(Group(Table("a"), sentence))
    logging.getLogger("situs").info(sentence)
    logging.getLogger("situs").warning(sentence)
    told = capsys.readouterr()
    assert sentence in told.out.splitlines()
    assert sum(sentence in line for line in told.out.splitlines()) == 2
    assert max(map(len, told.out.splitlines())) < len(sentence) + 20
    assert told.err.splitlines() == [sentence, f"WARNING  {sentence}"]


def test_rows_carry_the_verdict() -> None:
    (row,) = score_rows([observation(score())])
    assert row["score"] == "gap_mae"
    assert row["verdict"] == "better"


def test_what_the_library_logs_is_plain_lines_and_quiet_leaves_the_warnings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = logging.getLogger("situs.transfer.finetune")
    for quiet in (False, True):
        log_to_terminal()
        hush(quiet)
        log.info("3 cases to train on [p1]")
        log.warning("few cases")
        told = capsys.readouterr().err.splitlines()
        lines = [] if quiet else ["3 cases to train on [p1]"]
        assert [line.rstrip() for line in told] == [*lines, "WARNING  few cases"]
