"""Whether pretraining helped: one account over all metrics, told the same wherever it is told.

A network fine-tuned from pretrained weights stands beside the same network trained from scratch,
on the same labelled and the same test cases. A sentence names every metric, because a gain in one
may hide a loss in another, and says of what it speaks: one draw of labelled cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from situs import text
from situs.evaluation.measures import METRICS, Metric, Rows, case_scores
from situs.evaluation.statistics import crossed_bootstrap

Verdict = Literal["helped", "harmed", "mixed", "unclear"]

_FEWEST = 3  # paired cases for an interval
_SHOWN = {
    "segmentation": ("dice", "hd95_mm", "surface_dice"),
    "classification": ("auc", "balanced_accuracy"),
}


@dataclass(frozen=True)
class Gain:
    """One metric of a pretrained network beside the same network from scratch.

    Attributes:
        metric: What was measured, and which way is better.
        pretrained: Mean over the paired test cases.
        scratch: The same of the network from scratch.
        interval: Of the mean difference pretrained − scratch, 95 %, for other test cases; None
            where there are too few.
        cases: Paired test cases: those for which both networks have a value. A distance has none
            where a structure was missed or invented.
    """

    metric: Metric
    pretrained: float
    scratch: float
    interval: tuple[float, float] | None
    cases: int

    @property
    def difference(self) -> float:
        """Pretrained − scratch, in the metric's own unit."""
        return self.pretrained - self.scratch

    @property
    def better(self) -> bool:
        """Whether the mean moved the right way, clear or not."""
        return self.difference * self.metric.sign > 0

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    @property
    def words(self) -> str:
        """``"Dice 0.660 from these weights, 0.620 from scratch (+4.0 points, better; …)"``."""
        unit = "" if self.metric.unit == "points" else f" {self.metric.unit}"
        judged = f", {'better' if self.better else 'worse'}" if self.clear else ", not clear"
        line = (
            f"{self.metric.title} {text.number(self.pretrained)}{unit} from these weights, "
            f"{text.number(self.scratch)}{unit} from scratch "
            f"({self._signed(self.difference)} {self.metric.unit}{judged}"
        )
        if self.interval is not None:
            low, high = map(self._signed, self.interval)
            line += f"; 95 % interval {low} to {high} over {self.cases} cases"
        else:
            cases = f"{self.cases} case{'s' if self.cases != 1 else ''}"
            line += f"; over {cases}, too few for an interval"
        return f"{line})"

    def _signed(self, difference: float) -> str:
        return f"{self.metric.factor * difference:+.1f}".replace("-", "−")


@dataclass(frozen=True)
class Account:
    """All metrics of one comparison, and what they say together.

    Attributes:
        gains: One a metric, the main one first.
        task: ``"segmentation"`` or ``"classification"``.
        labelled: Labelled cases that both networks were trained on.
    """

    gains: tuple[Gain, ...]
    task: str
    labelled: int

    @property
    def verdict(self) -> Verdict:
        """``"helped"`` only where a metric is clearly better and no metric's mean is worse."""
        clear = [gain for gain in self.gains if gain.clear]
        if not clear:
            return "unclear"
        if any(gain.better for gain in clear) and not self._moved(worse=True):
            return "helped"
        if not any(gain.better for gain in clear) and not self._moved(worse=False):
            return "harmed"
        return "mixed"

    def _moved(self, worse: bool) -> list[Gain]:
        """Metrics whose mean moved one way, clear or not; a tie moved neither."""
        return [g for g in self.gains if g.difference and g.better is not worse]

    @property
    def conclusion(self) -> str:
        """What this one draw of labelled cases shows, every metric named that disagrees."""
        start = "With this one draw of labelled cases pretraining"
        clear = [gain for gain in self.gains if gain.clear]
        if self.verdict == "unclear":
            return "With this one draw of labelled cases there is no clear difference."
        if self.verdict == "helped":
            return f"{start} helped."
        if self.verdict == "harmed":
            return f"{start} did harm."
        better, worse = ([g for g in clear if g.better is way] for way in (True, False))
        parts = [
            *([f"helped in {_listed(better)}"] if better else []),
            *([f"did harm in {_listed(worse)}"] if worse else []),
        ]
        line = f"{start} {' and '.join(parts)}"
        if not (better and worse):
            against = [g for g in self._moved(worse=bool(better)) if not g.clear]
            way = "worse" if better else "better"
            line += f", while {_listed(against)} came out {way}, not clearly"
        return f"{line}."

    @property
    def sentence(self) -> str:
        """Every metric, then :attr:`conclusion`."""
        cases = f"{self.labelled} labelled case{'s' if self.labelled != 1 else ''}"
        metrics = "; ".join(gain.words for gain in self.gains)
        return f"{text.opening(self.task)} with {cases}: {metrics}. {self.conclusion}"


def account(pretrained: Rows, scratch: Rows, task: str, labelled: int) -> Account | None:
    """Hold a pretrained network against one from scratch, test case by test case.

    Args:
        pretrained: Rows of its ``cases.csv``.
        scratch: Rows of the other's.
        task: ``"segmentation"`` or ``"classification"``.
        labelled: Labelled cases that both were trained on.

    Returns:
        None where the two share no case with a value.
    """
    found = []
    for column in _SHOWN.get(task, ()):
        gain = _gain(METRICS[column], pretrained, scratch)
        if gain is not None:
            found.append(gain)
    return Account(tuple(found), task, labelled) if found else None


def paired_scores(
    pretrained: Rows, scratch: Rows, metric: Metric
) -> dict[str, tuple[float, float]]:
    """Case → (pretrained, scratch), for the cases in which both have a value."""
    one, two = (_scores(rows, metric) for rows in (pretrained, scratch))
    pairs = {case: (one[case], two[case]) for case in sorted(one.keys() & two.keys())}
    return {case: pair for case, pair in pairs.items() if np.isfinite(pair).all()}


def _gain(metric: Metric, pretrained: Rows, scratch: Rows) -> Gain | None:
    pairs = np.array(list(paired_scores(pretrained, scratch, metric).values()))
    if not len(pairs):
        return None
    first, second = pairs.mean(axis=0).tolist()
    interval = None
    if len(pairs) >= _FEWEST:
        drawn = crossed_bootstrap((pairs[:, 0] - pairs[:, 1])[None], np.random.default_rng(0))
        interval = (drawn.low, drawn.high)
    return Gain(metric, first, second, interval, len(pairs))


def _scores(rows: Rows, metric: Metric) -> dict[str, float]:
    if not rows or (metric.task == "segmentation" and metric.column not in rows[0]):
        return {}
    several = metric.task == "classification" and any(_several(row) for row in rows)
    return case_scores(rows, metric, several)


def _several(row: Mapping[str, str]) -> bool:
    """Whether a scan has several labels, or none."""
    return not row["true"] or "; " in row["true"]


def _listed(gains: Sequence[Gain]) -> str:
    names = [gain.metric.title for gain in gains]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
