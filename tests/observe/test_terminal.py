"""The terminal: words, the final table, progress in a pipe and in a terminal."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from situs.observation import Observation, Score, Section
from situs.observe import words
from situs.observe.terminal import TrainingProgress, print_scores, score_rows

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f\r]")


def score(**changes: object) -> Score:
    fields: dict[str, object] = {
        "name": "gap_mae",
        "value": 9.31,
        "unit": "mm",
        "better": "lower",
        "chance": 44.0,
        "trivial": 31.2,
        "label": "gap error",
    }
    return Score(**(fields | changes))  # type: ignore[arg-type]


def observation(*scores: Score, **changes: object) -> Observation:
    section = Section("Gap matrix [bold]", "How far apart?", scores)
    return Observation("spatial", 200, (section,), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (9.314, "mm", "9.31 mm"),
        (12.44, "°", "12.4°"),
        (71.0, "%", "71.0 %"),
        (0.8312, "", "0.831"),
        (-3.5, "mm", "−3.50 mm"),
        (312.4, "mm", "312 mm"),
        (2.4e-7, "", "2.4e−07"),
        (float("nan"), "mm", "–"),
        (None, "mm", "–"),
    ],
)
def test_quantities_read_well(value: float | None, unit: str, text: str) -> None:
    assert words.quantity(value, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (250, "4 min 10 s"), (7500, "2 h 05 min")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_the_reference_is_the_harder_of_chance_and_constant() -> None:
    assert words.reference(score()) == ("a constant answer", 31.2)
    higher = score(better="higher", unit="%", chance=50.0, trivial=33.0)
    assert words.reference(higher) == ("guessing", 50.0)
    assert words.reference(score(chance=None, trivial=None)) is None
    assert words.sentence(score()) == "gap error 9.31 mm; a constant answer gives 31.2 mm"


def test_a_difference_within_two_standard_errors_is_guessing() -> None:
    noisy = tuple(30.0 + d for d in (-12.0, 12.0, -10.0, 10.0))
    assert words.verdict(score(value=30.0, samples=noisy)) == "guessing"
    steady = tuple(30.0 + d for d in (-0.1, 0.1, -0.1, 0.1))
    assert words.verdict(score(value=30.0, samples=steady)) == "better"
    assert words.verdict(score(value=40.0)) == "worse"
    assert words.verdict(score(value=31.0)) == "guessing"
    assert words.verdict(score(value=float("nan"))) == "unknown"


def test_skill_runs_from_the_reference_to_perfect() -> None:
    assert words.skill(score(value=15.6)) == pytest.approx(0.5)
    accuracy = score(better="higher", unit="%", value=75.0, chance=50.0, trivial=None)
    assert words.skill(accuracy) == pytest.approx(0.5)
    assert words.skill(score(chance=None, trivial=None)) is None


def test_the_table_in_a_pipe_has_no_control_characters_and_keeps_every_fact() -> None:
    stream = io.StringIO()
    hostile = score(label="[red]evil[/] \x1b[31m" + "x" * 90)
    seen = observation(score(), hostile, warnings=("features collapsed; raise the weight",))
    print_scores([seen], Console(file=stream, width=60))
    text = stream.getvalue()
    assert not CONTROL.search(text)
    assert "Gap matrix [bold]" in text
    assert "gap error" in text
    assert "9.31 mm" in text
    assert "44.0 mm" in text
    assert "31.2 mm" in text
    assert "[red]evil[/]" in text
    assert "features collapsed" in text


def test_rows_carry_the_verdict() -> None:
    (row,) = score_rows([observation(score())])
    assert row["score"] == "gap_mae"
    assert row["verdict"] == "better"


def run_progress(callback: TrainingProgress, steps: int, first: int = 0) -> None:
    module = SimpleNamespace(progress={"gap": (9.3, "mm")}, data_wait_share=0.031)
    trainer = SimpleNamespace(
        global_step=first, max_steps=first + steps, is_global_zero=True, lightning_module=module
    )
    callback.on_train_start(trainer, module)  # type: ignore[arg-type]
    for _ in range(steps):
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    callback.on_train_end(trainer, module)  # type: ignore[arg-type]


def test_progress_in_a_pipe_is_plain_lines() -> None:
    stream = io.StringIO()
    run_progress(TrainingProgress(console=Console(file=stream, width=40)), steps=50, first=100)
    text = stream.getvalue()
    assert not CONTROL.search(text)
    lines = text.splitlines()
    assert lines[0].startswith("pretraining: step 101 of 150, gap 9.30 mm, ")
    assert lines[0].endswith("3 % waiting for data")
    assert lines[-1].startswith("pretraining: step 150 of 150")
    assert len(lines) == 2


def test_progress_in_a_terminal_ends_with_a_full_bar() -> None:
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, width=160)
    run_progress(TrainingProgress(console=terminal), steps=5)
    text = stream.getvalue()
    assert "5/5" in text
    assert "gap 9.30 mm" in text


def test_quiet_and_other_ranks_write_nothing() -> None:
    stream = io.StringIO()
    run_progress(TrainingProgress(quiet=True, console=Console(file=stream)), steps=3)
    assert stream.getvalue() == ""
