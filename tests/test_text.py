"""Numbers and verdicts in words."""

from __future__ import annotations

import pytest
from scores_made import score

from situs import text
from situs.observation import Score, verdicts


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (9.314, "mm", "9.31 mm"),
        (12.44, "°", "12.4°"),
        (71.0, "%", "71.0 %"),
        (0.8312, "", "0.831"),
        (-3.5, "mm", "−3.50 mm"),
        (312.4, "mm", "312 mm"),
        (2.4e-7, "", "2.4e−07"),
        (7e-7, "mm", "< 0.001 mm"),
        (0.0, "mm", "0 mm"),
        (float("nan"), "mm", "–"),
        (None, "mm", "–"),
    ],
)
def test_quantities_read_well(value: float | None, unit: str, written: str) -> None:
    assert text.quantity(value, unit) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (250, "4 min 10 s"), (7500, "2 h 05 min")],
)
def test_durations_read_well(seconds: float, written: str) -> None:
    assert text.duration(seconds) == written


def test_the_reference_is_the_harder_of_chance_and_constant() -> None:
    assert verdicts.reference(score()) == ("a constant answer", 31.2)
    higher = score(better="higher", unit="%", chance=50.0, constant=33.0)
    assert verdicts.reference(higher) == ("guessing", 50.0)
    assert verdicts.reference(score(chance=None, constant=None)) is None
    assert verdicts.sentence(score()) == "gap error 9.31 mm; a constant answer gives 31.2 mm"


def test_a_difference_within_two_standard_errors_is_guessing() -> None:
    noisy = tuple(30.0 + d for d in (-12.0, 12.0, -10.0, 10.0))
    assert verdicts.verdict(score(value=30.0, samples=noisy)) == "guessing"
    steady = tuple(30.0 + d for d in (-0.1, 0.1, -0.1, 0.1))
    assert verdicts.verdict(score(value=30.0, samples=steady)) == "better"
    assert verdicts.verdict(score(value=60.0)) == "worse"
    between = score(value=40.0)  # beats guessing, but not the constant
    assert verdicts.verdict(between) == "guessing"
    assert verdicts.judged(between) == "between guessing and a constant answer (no interval)"
    below = score(value=45.0)  # worse than guessing, by less than can be told
    assert verdicts.judged(below).startswith("no better than guessing or a constant answer")
    alone = score(value=42.0, constant=None)  # nobody is told of an answer that there is not
    assert verdicts.judged(alone) == "not clearly better than guessing (no interval)"
    assert verdicts.judged(score(constant=None)) == "better than guessing (no interval)"
    close = score(value=31.0)  # beats the constant by less than can be told
    assert verdicts.verdict(close) == "guessing"
    assert verdicts.judged(close) == "not clearly better than a constant answer (no interval)"
    assert verdicts.verdict(score(value=float("nan"))) == "unknown"


def test_the_words_say_over_how_many_patients() -> None:
    values = (9.0, 10.0, 9.5, 9.7)
    two = score(samples=values, groups=(0, 0, 1, 1))
    assert verdicts.judged(two).endswith("(over 2 patients)")
    one = score(samples=values, groups=(0, 0, 0, 0))
    assert verdicts.judged(one).endswith("(1 patient, no interval)")


def test_a_score_without_an_interval_must_come_5_percent_nearer_to_perfect() -> None:
    def r2(value: float, untrained: float | None = None) -> Score:
        return Score("r2", value, "", "higher", chance=0.0, constant=0.0, untrained=untrained)

    assert verdicts.verdict(r2(0.04)) == "guessing"
    assert verdicts.verdict(r2(0.06)) == "better"
    assert verdicts.judged(r2(0.12, untrained=0.1)).startswith("better than guessing and a")
    assert verdicts.judged(r2(0.2, untrained=0.1)) == "better than without anatomy (no interval)"


def test_skill_runs_from_the_reference_to_perfect() -> None:
    assert verdicts.skill(score(value=15.6)) == pytest.approx(0.5)
    accuracy = score(better="higher", unit="%", value=75.0, chance=50.0, constant=None)
    assert verdicts.skill(accuracy) == pytest.approx(0.5)
    assert verdicts.skill(score(chance=None, constant=None)) is None


def test_a_monitor_of_collapse_is_shown_and_never_counted_as_learned() -> None:
    rank = Score("feature_rank", 28.0, "", "higher", collapsed=1.0)
    assert verdicts.verdict(rank) == "monitor"
    assert verdicts.reference(rank) is None
    assert verdicts.skill(rank) is None
