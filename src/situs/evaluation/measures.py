"""What a study compares: a score for each test case, whose mean is the metric.

AUC and balanced accuracy belong to a set of cases. Both are means over cases all the same, each
case weighted by how rare its class is, so that one bootstrap and one paired test serve all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Rows = Sequence[Mapping[str, str]]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A score and how it is read.

    Attributes:
        column: Key in configurations; for segmentation the column of ``cases.csv``.
        name: For people.
        task: That it is for.
        higher: Whether more is better.
        unit: Of differences; scores between 0 and 1 are told in points of a hundred.
        tuned_by: Column of the metric that learning rates are chosen by, where this one is not
            defined for a network that finds nothing.
    """

    column: str
    name: str
    task: Literal["segmentation", "classification"]
    higher: bool = True
    unit: str = "points"
    tuned_by: str = ""

    @property
    def title(self) -> str:
        """The name without a unit, for sentences that give values with theirs."""
        return self.name.removesuffix(f" ({self.unit})")

    @property
    def sign(self) -> int:
        """1 where more is better, else −1: a gain is ``sign * (mine − theirs)``."""
        return 1 if self.higher else -1

    @property
    def for_tuning(self) -> Metric:
        """What learning rates are chosen by."""
        return METRICS[self.tuned_by or self.column]

    @property
    def factor(self) -> float:
        """From a difference to ``unit``."""
        return 100.0 if self.unit == "points" else 1.0


METRICS: dict[str, Metric] = {
    metric.column: metric
    for metric in (
        Metric("dice", "Dice", "segmentation"),
        Metric("surface_dice", "surface Dice", "segmentation"),
        Metric("hd95_mm", "HD95 (mm)", "segmentation", higher=False, unit="mm", tuned_by="dice"),
        Metric("balanced_accuracy", "balanced accuracy", "classification"),
        Metric("auc", "AUC", "classification"),
        Metric("correct", "accuracy", "classification"),
    )
}
DEFAULT = {"segmentation": "dice", "classification": "balanced_accuracy"}


def case_scores(rows: Rows, metric: Metric, multi_label: bool = False) -> dict[str, float]:
    """One value a case from the rows of a ``cases.csv``; NaN where it has none.

    Of a segmentation the mean over the classes that the case has or was said to have; a distance
    is NaN when one of them was missed or invented. Of a classification:

    - ``correct``: 1 where all of a scan's labels are right, else 0;
    - ``balanced_accuracy``: the same by N / (K·n), n the cases of the case's class of K. Where a
      scan may have several labels, the mean over labels of the right answers, each by N / 2n,
      n the cases with the same answer to it;
    - ``auc``: the share of other cases whose probability of the case's class is lower, by
      N / (K·n). Its mean is the mean over classes of the area under one-against-the-rest curves
      (DeLong et al., Biometrics 1988, call the shares placement values; weighting each case so
      that one mean gives the whole score is ours).

    Args:
        rows: One a case, or of a segmentation one a case and class; none of a run that diverged.
        metric: Which score.
        multi_label: Whether a scan may have several labels or none.
    """
    if metric.task == "segmentation":
        return _class_means(rows, metric.column)
    if not rows:
        return {}
    cases = [row["case"] for row in rows]
    classes = [key[2:-1] for key in rows[0] if key.startswith("p(")]
    true, said = (_onehot(rows, column, classes) for column in ("true", "predicted"))
    if metric.column == "correct":
        scores = (true == said).all(1).astype(float)
    elif metric.column == "auc":
        probability = np.array([[float(row[f"p({name})"]) for name in classes] for row in rows])
        scores = _placements(true, probability)
    else:
        scores = _balanced(true, said) if multi_label else _recalls(true, said)
    return dict(zip(cases, scores.tolist(), strict=True))


def mean_score(cases: Mapping[str, float]) -> float:
    """Mean over cases that have a score; NaN without any."""
    known = [v for v in cases.values() if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def _class_means(rows: Rows, column: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for row in rows:
        known = values.setdefault(row["case"], [])
        if row["presence"] != "absent":
            known.append(float(row[column] or "nan"))
    return {case: sum(v) / len(v) if v else math.nan for case, v in values.items()}


def _onehot(rows: Rows, column: str, classes: Sequence[str]) -> npt.NDArray[np.bool_]:
    named = [set(row[column].split("; ")) for row in rows]
    return np.array([[name in one for name in classes] for one in named], dtype=bool)


def _recalls(true: npt.NDArray[np.bool_], said: npt.NDArray[np.bool_]) -> Array:
    size = true.sum(0)
    weight = len(true) / (np.count_nonzero(size) * size[true.argmax(1)])
    return np.asarray((true == said).all(1) * weight)


def _balanced(true: npt.NDArray[np.bool_], said: npt.NDArray[np.bool_]) -> Array:
    positives = true.sum(0)
    both = (positives > 0) & (positives < len(true))
    same = np.where(true, positives, len(true) - positives)[:, both]
    right = (true == said)[:, both]
    if not both.any():
        return np.full(len(true), np.nan)
    return np.asarray((right * len(true) / (2 * same)).mean(1))


def _placements(true: npt.NDArray[np.bool_], probability: Array) -> Array:
    scores, count = np.zeros(len(true)), 0
    for k, positive in enumerate(true.T):
        if positive.all() or not positive.any():
            continue  # no curve
        count += 1
        mine, others = probability[positive, k, None], probability[~positive, k]
        share = ((mine > others) + 0.5 * (mine == others)).mean(1)
        scores[positive] += share * len(true) / positive.sum()
    return scores / count if count else np.full(len(true), np.nan)
