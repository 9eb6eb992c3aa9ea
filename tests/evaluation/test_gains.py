"""The one account of whether pretraining helped, over all metrics and one draw of cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from situs.evaluation.gains import account

NOISE = np.random.default_rng(3).normal(0, 1, (2, 24))
NOISE -= NOISE.mean(1, keepdims=True)


def rows(dice: np.ndarray, hd95: np.ndarray, missed: tuple[int, ...] = ()) -> list[dict[str, str]]:
    return [
        {
            "case": f"c{n}",
            "presence": "missed" if n in missed else "both",
            "dice": str(dice[n]),
            "hd95_mm": "" if n in missed else str(hd95[n]),
        }
        for n in range(len(dice))
    ]


def arms(
    dice: float, hd95: float, missed: tuple[int, ...] = ()
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Pretrained and scratch; gains of ``dice`` and ``hd95`` with a spread of 0.01 and 1 mm."""
    base = rows(0.6 + 0 * NOISE[0], 10 + 0 * NOISE[0])
    return rows(0.6 + dice + 0.01 * NOISE[0], 10 + hd95 + NOISE[1], missed), base


@pytest.mark.parametrize(
    ("dice", "hd95", "verdict", "conclusion"),
    [
        (0.05, -3.0, "helped", "pretraining helped."),
        (-0.05, 3.0, "harmed", "pretraining did harm."),
        (0.05, 3.0, "mixed", "pretraining helped in Dice and did harm in HD95."),
        (0.05, 0.3, "mixed", "helped in Dice, while HD95 came out worse, not clearly."),
        (-0.05, -0.3, "mixed", "did harm in Dice, while HD95 came out better, not clearly."),
        (0.0, 0.0, "unclear", "there is no clear difference."),
    ],
)
def test_no_metric_hides_another(dice: float, hd95: float, verdict: str, conclusion: str) -> None:
    found = account(*arms(dice, hd95), "segmentation", 2)
    assert found is not None
    assert found.verdict == verdict
    assert found.sentence.startswith("Segmentation with 2 labelled cases: Dice 0.")
    assert found.sentence.endswith(conclusion)
    assert found.conclusion.startswith("With this one draw of labelled cases ")
    assert "; HD95 " in found.sentence, "every metric is in the sentence"


def test_the_interval_is_that_of_paired_cases() -> None:
    """Against the paired t interval, which the bootstrap is stretched to."""
    found = account(*arms(0.05, 3.0), "segmentation", 2)
    assert found is not None
    gain = found.gains[0]
    difference = 0.05 + 0.01 * NOISE[0]
    assert gain.difference == pytest.approx(difference.mean())
    expected = stats.t.interval(0.95, len(difference) - 1, difference.mean(), stats.sem(difference))
    assert gain.interval == pytest.approx(expected, abs=1e-3)


def test_cases_without_a_distance_count_for_dice_alone() -> None:
    found = account(*arms(0.05, -3.0, missed=(0, 5)), "segmentation", 2)
    assert found is not None
    assert [gain.cases for gain in found.gains] == [24, 22]
    assert "over 22 cases" in found.sentence


def test_two_cases_have_no_interval_and_no_verdict() -> None:
    one, two = arms(0.5, -9.0)
    found = account(one[:2], two[:2], "segmentation", 1)
    assert found is not None
    assert found.verdict == "unclear"
    assert "with 1 labelled case:" in found.sentence
    assert "not clear; over 2 cases, too few for an interval)" in found.sentence
    assert account(one, [], "segmentation", 1) is None


def test_a_classification_is_judged_case_by_case() -> None:
    true = ["left", "right"] * 8

    def table(confidence: np.ndarray) -> list[dict[str, str]]:
        return [
            {
                "case": f"c{n}",
                "true": name,
                "predicted": name if p > 0.5 else true[n + 1 - 2 * (n % 2)],
                "p(left)": str(p if name == "left" else 1 - p),
                "p(right)": str(1 - p if name == "left" else p),
            }
            for n, (name, p) in enumerate(zip(true, confidence, strict=True))
        ]

    guess = np.random.default_rng(0).uniform(0, 1, 16)
    found = account(table(np.full(16, 0.9)), table(guess), "classification", 4)
    assert found is not None
    assert [g.metric.column for g in found.gains] == ["auc", "balanced_accuracy"]
    assert found.gains[0].pretrained == pytest.approx(1.0)
    assert found.verdict == "helped"
