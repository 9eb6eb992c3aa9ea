"""Models of two arms of a study averaged: better than either, and than two of one arm?

``python -m benchmarks.ensembles STUDY ARM,ARM [ARM,ARM …]``, of a study whose fine-tunings kept
their models (``situs study … --set finetune.save_model=true``). Of each draw of labelled cases the
probabilities of both arms' models are averaged, as ``situs predict --ensemble`` does, and scored by
Dice on the study's test cases. Gains are over the better of the two arms, and over the pair named
first; intervals and p values are a study's, for new cases and new draws.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from situs.datasets.dataset import open_dataset
from situs.evaluation.metrics import score_segmentation
from situs.evaluation.statistics import crossed_bootstrap, paired_test
from situs.store import restore_largest
from situs.transfer.cases import Cohort, PreparedCase
from situs.transfer.model import Model

Array = npt.NDArray[np.float64]


def finetunings(study: Path) -> dict[str, dict[int, Path]]:
    """Folders of finished jobs by arm and draw."""
    found: dict[str, dict[int, Path]] = {}
    for folder in sorted(study.glob("jobs/finetune-*")):
        if (folder / "result.json").is_file() and (folder / "run" / "model").is_dir():
            about = json.loads((folder / "job.json").read_text())["about"]
            found.setdefault(about["arm"], {})[about["seed"]] = folder
    return found


def scored(models: list[Model], case: PreparedCase) -> list[float]:
    """Dice of one case: of each model, then of all together."""
    each = [model.probabilities(case.prepared) for model in models]
    classes = models[0].task.classes
    labels = np.array(list(classes), dtype=np.int16)
    spacing = np.linalg.norm(case.affine[:3, :3], axis=0).tolist()
    found = []
    for values in (*each, np.mean(each, axis=0)):
        predicted = labels[restore_largest(values, case.prepared)]
        rows = score_segmentation(case.name, predicted, case.truth, classes, spacing)
        found.append(float(np.nanmean([row.dice for row in rows])))
    return found


class Scorer:
    """Dice of pairs of arms, on cases that are read once."""

    def __init__(self, study: Path) -> None:
        self.folders = finetunings(study)
        self._cases: list[PreparedCase] = []

    def pair(self, first: str, second: str) -> Array:
        """``(3, draws, cases)``: of the one, of the other, of both together."""
        draws = sorted(self.folders[first].keys() & self.folders[second].keys())
        return np.array([self._draw(first, second, draw) for draw in draws]).transpose(2, 0, 1)

    def _draw(self, first: str, second: str, draw: int) -> list[list[float]]:
        folders = [self.folders[arm][draw] for arm in (first, second)]
        models = [Model.load(folder / "run").to_device() for folder in folders]
        config = json.loads((folders[0] / "job.json").read_text())["config"]
        return [scored(models, case) for case in self._tested(config, models[0])]

    def _tested(self, config: dict[str, Any], model: Model) -> list[PreparedCase]:
        if not self._cases:
            dataset = open_dataset(config["data"], **config["dataset"])
            cohort = Cohort(dataset, model.task.preprocessing)
            self._cases = list(cohort.stream(config["test"]))
        return self._cases


def told(gains: Array) -> str:
    interval = crossed_bootstrap(100 * gains, np.random.default_rng(0))
    spread = f"({interval.low:+.1f} to {interval.high:+.1f})"
    return f"{interval.mean:+.1f} {spread}, p {paired_test(gains):.3f}"


def main() -> None:
    """Two or three lines a pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, help="folder of a study")
    parser.add_argument("pairs", nargs="+", help="ARM,ARM")
    arguments = parser.parse_args()
    scorer, first = Scorer(arguments.study), None
    pairs = [pair.split(",") for pair in arguments.pairs]
    if missing := {name for pair in pairs for name in pair} - scorer.folders.keys():
        parser.error(f"{arguments.study} keeps no model of {', '.join(sorted(missing))}")
    for names in pairs:
        dice = scorer.pair(*names)
        means = dice.mean((1, 2))
        alone = ", ".join(f"{n} {m:.3f}" for n, m in zip(names, means[:2], strict=True))
        print(f"{','.join(names)}: together {means[2]:.3f} ({alone}), {dice.shape[1]} draws")
        print(f"  over the better one {told(dice[2] - dice[int(means[1] > means[0])])}")
        if first is None:
            first = dice
        else:
            print(f"  over the first pair {told(dice[2] - first[2])}")


if __name__ == "__main__":
    main()
