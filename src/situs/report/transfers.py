"""Whether pretraining helped: fine-tuned results beside training from scratch, case by case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from situs import text
from situs.report.folder import Transfer

_RESAMPLES = 4000
_MAIN = {"segmentation": "dice", "classification": "auc"}
COUNTS = frozenset({"cases", "hd95_undefined"})
_NAMES = {
    "dice": "Dice",
    "hd95_mm": "HD95 (mm)",
    "surface_dice": "surface Dice",
    "hd95_undefined": "HD95 undefined",
    "calibration_error": "calibration error",
    "auc": "AUC",
    "balanced_accuracy": "balanced accuracy",
}


@dataclass(frozen=True)
class Comparison:
    """Pretrained beside scratch, on the same labelled and the same test cases.

    Attributes:
        pretrained: The better-initialised arm.
        scratch: The other.
        score: ``"dice"`` or ``"auc"``.
        gain: Mean difference, pretrained minus scratch.
        interval: 95 % bootstrap interval of the mean difference over paired test cases; None
            where there are no case-wise scores.
        cases: Paired test cases.
    """

    pretrained: Transfer
    scratch: Transfer
    score: str
    gain: float
    interval: tuple[float, float] | None
    cases: int

    @property
    def helped(self) -> bool | None:
        """True or False where the interval excludes zero, None where it does not."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return None
        return self.gain > 0

    @property
    def sentence(self) -> str:
        """The result in words."""
        name = name_of(self.score)
        pretrained, scratch = (t.result["scores"][self.score] for t in self.arms)
        labels = self.pretrained.labelled
        line = (
            f"With {labels} labelled case{'s' if labels != 1 else ''}, {self.pretrained.task} "
            f"reaches {name} {text.number(pretrained)} from these weights and "
            f"{text.number(scratch)} from scratch ({_points(self.gain)} points"
        )
        if self.interval is not None:
            low, high = self.interval
            line += f"; 95 % interval {_points(low)} to {_points(high)} over {self.cases} cases"
        line += "). "
        if self.helped is None:
            return line + "That is no clear difference."
        # The interval is over cases; how far another draw would differ, one run cannot know.
        verb = "helped" if self.helped else "did harm"
        return f"{line}With this draw of labelled cases pretraining {verb}."

    @property
    def arms(self) -> tuple[Transfer, Transfer]:
        """Pretrained, scratch."""
        return self.pretrained, self.scratch


def compare(transfers: Sequence[Transfer]) -> list[Comparison]:
    """Every pretrained result with the scratch result that has the same task and labels."""
    scratch = {_key(t): t for t in transfers if t.scratch}
    return [
        comparison
        for t in transfers
        if not t.scratch
        and _key(t) in scratch
        and (comparison := _compare(t, scratch[_key(t)])) is not None
    ]


def name_of(score: str) -> str:
    """A score's name for readers."""
    return _NAMES.get(score, score.replace("_", " "))


def _compare(pretrained: Transfer, scratch: Transfer) -> Comparison | None:
    score = _MAIN.get(pretrained.task, "dice")
    means = [t.result.get("scores", {}).get(score) for t in (pretrained, scratch)]
    if means[0] is None or means[1] is None:
        return None
    one, two = pretrained.by_case(score), scratch.by_case(score)
    shared = sorted(one.keys() & two.keys())
    interval = None
    gain = float(means[0]) - float(means[1])
    if len(shared) > 2:
        difference = np.asarray([one[case] - two[case] for case in shared])
        gain = float(difference.mean())
        rng = np.random.default_rng(0)
        drawn = rng.choice(difference, (_RESAMPLES, len(difference))).mean(axis=1)
        low, high = np.percentile(drawn, [2.5, 97.5])
        interval = (float(low), float(high))
    return Comparison(pretrained, scratch, score, gain, interval, len(shared))


def _key(transfer: Transfer) -> tuple[object, ...]:
    split = transfer.result.get("split", {})
    return (
        transfer.task,
        tuple(sorted(split.get("train", ()))),
        tuple(sorted(split.get("test", ()))),
    )


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}".replace("-", "−")
