"""Which jobs a study consists of, as far as that is known from the results so far.

A graph is a pure function of the configuration, the cases and the finished results: a fine-tuning
whose learning rate is still being tuned is not in it yet, and appears once it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from situs.evaluation.measures import Metric, case_scores, mean_score
from situs.files import file_sha256, sha256
from situs.splits.split import Split
from situs.studies.arms import SCRATCH, Arm
from situs.studies.cases import CaseFacts, fingerprint
from situs.studies.config import StudyConfig
from situs.studies.jobs import RUN, Job, JobResult
from situs.studies.splits import training_cases
from situs.weights import weights_folder

Results = Callable[[Job], JobResult | None]


@dataclass(frozen=True)
class StudyCases:
    """The data of a study.

    Attributes:
        facts: Of all labelled cases.
        split: Tested, tuned on, and left to draw training sets from.
        unlabelled: Images for pretraining: of every case that is not tested, and further ones.
        contents: Hash of those images.
        multi_label: Whether a scan may have several labels or none.
        modality: Of all images, where the data set states one; else empty.
    """

    facts: tuple[CaseFacts, ...]
    split: Split
    unlabelled: tuple[Path, ...]
    contents: str = ""
    multi_label: bool = False
    modality: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the labelled data."""
        return fingerprint(self.facts)


class JobGraph:
    """The jobs of a study that are known by now.

    Args:
        study: The configuration.
        cases: Its data.
        results: Result of a job, None while it is not done.
        folder: Folder of a job.
        fold: Which of a cross-validation it is.
        further: Graphs of the other folds, whose jobs come after its own.
    """

    def __init__(
        self,
        study: StudyConfig,
        cases: StudyCases,
        results: Results,
        folder: Callable[[Job], Path],
        fold: int = 0,
        further: Sequence[JobGraph] = (),
    ) -> None:
        self.study, self.cases, self.results, self.folder = study, cases, results, folder
        self.fold, self.folds = fold, (self, *further)
        self._called = f" fold{fold}" if study.folds > 1 else ""
        self._drawn: dict[tuple[int, int], tuple[str, ...]] = {}

    def __repr__(self) -> str:
        return f"JobGraph('{self.study.name}', {self.expected()} jobs)"

    def jobs(self) -> list[Job]:
        """All known jobs, in the order in which they are worth doing, each once; all folds."""
        return list({job.key: job for fold in self.folds for job in fold.own_jobs()}.values())

    def own_jobs(self) -> list[Job]:
        """Those of this fold.

        One seed is finished before the next begins, so that a study that is stopped early still
        compares all arms.
        """
        found: dict[str, Job] = {}
        for seed in self.study.seeds:
            for labels in self.study.labels:
                for arm in self.study.arms:
                    if labels in self.study.labels_of(arm):
                        for job in self._path_to(arm, labels, seed):
                            found.setdefault(job.key, job)
        return list(found.values())

    def expected(self) -> int:
        """Number of jobs in the whole study, known and still unknown; all folds."""
        return sum(fold.own_expected() for fold in self.folds)

    def own_expected(self) -> int:
        """Number of jobs of this fold."""
        study = self.study
        seeds = {*study.seeds, *(study.tune.seeds if len(study.tune.lr) > 1 else ())}
        pretrained = [arm for arm in study.arms if arm.method != SCRATCH]
        pretrainings = {self.pretraining(arm, seed).key for arm in pretrained for seed in seeds}
        points = {
            (tuned.title, self._tuned_at(n))
            for arm in study.arms
            if (tuned := study.tuned_for(arm)) is not None
            for n in study.labels_of(arm)
        }
        tunings = len(points) * len(study.tune.lr) * len(study.tune.seeds)
        runs = sum(len(study.labels_of(arm)) for arm in study.arms) * len(study.seeds)
        return 1 + len(pretrainings) + tunings + runs

    def runs(self) -> Iterator[tuple[Job, Arm, int, int]]:
        """The fine-tunings of this fold that are compared, as far as known.

        Yields:
            Job, arm, labels and seed.
        """
        for arm in self.study.arms:
            for labels in self.study.labels_of(arm):
                for seed in self.study.seeds:
                    *_, last = self._path_to(arm, labels, seed)
                    if last.kind == "finetune":
                        yield last, arm, labels, seed

    @cached_property
    def store(self) -> Job:
        """Preprocessing of everything that is pretrained on."""
        paths = [str(p.resolve()) for p in self.cases.unlabelled]
        preprocessing = self.study.preprocessing
        config: dict[str, Any] = {"paths": paths, "compression": preprocessing.compression}
        config["rules"] = preprocessing.of_voxels()
        if self.cases.modality:
            config["modality"] = self.cases.modality
        return Job("store", f"store{self._called}", config, {"paths": self.cases.contents})

    def pretraining(self, arm: Arm, seed: int) -> Job:
        """The pretraining of an arm, shared by label counts and, by default, by seeds."""
        store = self.store
        study = self.study
        seed = seed if study.pretrain_per_seed else 0
        config = {
            **study.pretrain,
            **arm.pretrain,
            "method": arm.method,
            "options": study.options_of(arm),
            "weights": arm.weights,
            "backbone": study.backbone_of(arm).model_dump(mode="json"),
            "seed": seed,
            "threads": study.threads,
            "data": str((self.folder(store) / RUN).resolve()),
        }
        title = f"{arm.title} seed{seed}{self._called}"
        about = {"arm": arm.title, "seed": seed}
        return Job("pretrain", title, config, {"data": store.key}, (store.key,), about)

    def sharing(self, pretraining: Job) -> list[str]:
        """Titles of the arms that start from a pretraining."""
        about = pretraining.about or {}
        return [
            arm.title
            for arm in self.study.arms
            if arm.method != SCRATCH and self.pretraining(arm, about["seed"]).key == pretraining.key
        ]

    def identity(self, arm: Arm, labels: int) -> str:
        """Hash of all that decides an arm's results with so many labels, before anything is run.

        Names of arms, other arms and other label counts are no part of it; all folds are.
        """
        return sha256(*(k for fold in self.folds for k in fold._keys(arm, labels)), digits=12)

    def _keys(self, arm: Arm, labels: int) -> list[str]:
        test, keys = self.cases.split.test, []
        for seed in self.study.seeds:
            start, train = self._start(arm, seed), self.training(labels, seed)
            # Preprocessing that the store settles stands in its key, a tuned rate in the trials'.
            keys += [start.key, self._finetuning(arm, start, {}, train, test, seed, None).key]
        tuned = self.study.tuned_for(arm)
        if tuned is not None:
            trials = self._tunings(tuned, self._tuned_at(labels), {}).values()
            keys += [job.key for pairs in trials for pair in pairs for job in pair]
        return keys

    def _path_to(self, arm: Arm, labels: int, seed: int) -> list[Job]:
        """Jobs that lead to one compared run; the run itself last, once it is known."""
        store, start = self.store, self._start(arm, seed)
        jobs = [store] if start is store else [store, start]
        prepared = self.results(store)
        if prepared is None:
            return jobs
        preprocessing = prepared.rules or {}
        lr: float | None = None
        tuned = self.study.tuned_for(arm)
        if tuned is not None:
            tuning = self._tunings(tuned, self._tuned_at(labels), preprocessing)
            jobs += [job for trials in tuning.values() for pair in trials for job in pair]
            lr = self._best_rate(tuning)
            if lr is None:
                return jobs
        train = self.training(labels, seed)
        job = self._finetuning(arm, start, preprocessing, train, self.cases.split.test, seed, lr)
        about = {"arm": arm.title, "labels": labels, "seed": seed, "lr": job.config.get("lr")}
        title = f"{arm.title} {labels} labels seed{seed}{self._called}"
        return [
            *jobs,
            Job("finetune", title, job.config, job.identity, job.needs, about),
        ]

    @cached_property
    def _keeps_sides(self) -> bool:
        return self.study.keeps_sides  # asks every method and card, for each job

    def _start(self, arm: Arm, seed: int) -> Job:
        """What the fine-tunings of an arm wait for."""
        return self.store if arm.method == SCRATCH else self.pretraining(arm, seed)

    def _tuned_at(self, labels: int) -> int:
        points = self.study.tune.labels or (labels,)
        return min(points, key=lambda n: (abs(math.log(n / labels)), n))

    def _tunings(
        self, arm: Arm, labels: int, preprocessing: dict[str, Any]
    ) -> dict[float, list[tuple[Job, Job]]]:
        """For each candidate rate, what each trial starts from and the trial."""
        tune, test = self.study.tune, self.cases.split.validation
        trials: dict[float, list[tuple[Job, Job]]] = {lr: [] for lr in tune.lr}
        for lr in tune.lr:
            for seed in tune.seeds:
                start = self._start(arm, seed)
                train = self.training(labels, seed)
                job = self._finetuning(arm, start, preprocessing, train, test, seed, lr)
                about = {"arm": arm.title, "labels": labels, "seed": seed, "lr": lr}
                title = f"{arm.title} {labels} labels lr{lr:g} seed{seed}{self._called}"
                trial = Job("tune", title, job.config, job.identity, job.needs, about)
                trials[lr].append((start, trial))
        return trials

    def _best_rate(self, tuning: dict[float, list[tuple[Job, Job]]]) -> float | None:
        """The rate with the best mean over seeds; None while a trial is missing.

        A rate at which a trial diverged is out, where its pretraining did not; of equals the
        smallest is taken.
        """
        metric = self.study.score.for_tuning
        means: dict[float, float] = {}
        for lr, pairs in tuning.items():
            trials = self._telling(pairs)
            found = [result for trial in trials if (result := self.results(trial)) is not None]
            if len(found) < len(trials):
                return None
            mean = sum(metric.sign * mean_score(self.scores(r, metric)) for r in found) / len(found)
            means[lr] = -math.inf if math.isnan(mean) else mean
        return max(means, key=lambda lr: (means[lr], -lr))

    def none_held(self, arm: Arm, labels: int) -> bool:
        """Whether every candidate rate of an arm diverged, so that its runs have the smallest."""
        tuning = self._tuning_of(arm, labels)
        found = ([self.results(trial) for trial in self._telling(p)] for p in tuning.values())
        held = (not any(r is not None and r.diverged for r in results) for results in found)
        return bool(tuning) and not any(held) and not self.untried(arm, labels)

    def untried(self, arm: Arm, labels: int) -> bool:
        """Whether an arm's runs have the smallest rate since no pretraining of its trials ended."""
        pairs = [pair for trials in self._tuning_of(arm, labels).values() for pair in trials]
        found = [self.results(start) for start, _ in pairs]
        return bool(found) and all(r is not None and r.diverged for r in found)

    def _tuning_of(self, arm: Arm, labels: int) -> dict[float, list[tuple[Job, Job]]]:
        """What an arm's rate is chosen by; empty where it is not tuned, or before the store is."""
        prepared, tuned = self.results(self.store), self.study.tuned_for(arm)
        if prepared is None or tuned is None:
            return {}
        return self._tunings(tuned, self._tuned_at(labels), prepared.rules or {})

    def _telling(self, pairs: Sequence[tuple[Job, Job]]) -> list[Job]:
        """Trials that say something of a rate: of a pretraining that diverged none could begin.

        All, where every pretraining did.
        """
        begun = []
        for start, trial in pairs:
            began = self.results(start)
            if began is None or not began.diverged:
                begun.append(trial)
        return begun or [trial for _, trial in pairs]

    def scores(self, result: JobResult, metric: Metric) -> dict[str, float]:
        """One value a case of a finished fine-tuning; none if it diverged."""
        return case_scores(result.cases, metric, self.cases.multi_label)

    def training(self, labels: int, seed: int) -> tuple[str, ...]:
        """The cases that a seed trains on.

        Raises:
            SitusError: If there are too few.
        """
        if (labels, seed) not in self._drawn:
            facts, pool = self.cases.facts, self.cases.split.train
            by_stratum = self.study.task == "classification"
            by_patient = self.study.labels_are == "patients"
            self._drawn[labels, seed] = training_cases(
                facts, pool, labels, seed, by_stratum, by_patient
            )
        return self._drawn[labels, seed]

    def _finetuning(
        self,
        arm: Arm,
        start: Job,
        preprocessing: dict[str, Any],
        train: Sequence[str],
        test: Sequence[str],
        seed: int,
        lr: float | None,
    ) -> Job:
        study = self.study
        config: dict[str, Any] = {
            "save_predictions": False,
            "save_model": False,
            **study.finetune,
            **arm.finetune,
            "task": study.task,
            "data": str(study.data.resolve()),
            "dataset": _dataset_options(study),
            "train": list(train),
            "validation": 0,
            "test": list(test),
            "seed": seed,
            "threads": study.threads,
        }
        if self._keeps_sides:
            # Arms are compared under one augmentation: where a pretext task used position, no
            # arm flips left-right unless it was asked to.
            asked = dict(config.get("augmentation") or {})
            if asked.get("flip_axes") in (None, "auto"):
                asked["flip_axes"] = []
            config["augmentation"] = asked
        if lr is not None:
            config["lr"] = lr
        identity = {"data": self.cases.fingerprint}
        if arm.scratch:
            card = arm.card
            config["backbone"] = study.backbone_of(arm).model_dump(mode="json")
            config["preprocessing"] = preprocessing if card is None else card.preprocessing
        elif arm.init is not None:
            config["init"] = str(arm.init.resolve())
            identity["init"] = file_sha256(weights_folder(arm.init) / "card.json")
        else:
            config["init"] = str((self.folder(start) / RUN).resolve())
            identity["init"] = start.key
        return Job("finetune", "", config, identity, (start.key,))


def _dataset_options(study: StudyConfig) -> dict[str, Any]:
    """As a worker reads them, wherever it stands."""
    options = study.dataset.model_dump(mode="json", exclude_defaults=True)
    if study.dataset.test is not None:
        options["test"] = str(study.dataset.test.resolve())
    return options
