"""What a study compares, on which data, within which budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from situs.backbones import BackboneConfig
from situs.catalog.near_duplicates import ALIKE
from situs.config import Config, Seed, validate
from situs.datasets.dataset import DatasetOptions
from situs.errors import setting
from situs.evaluation.measures import DEFAULT, METRICS, Metric
from situs.methods import method_class
from situs.methods.composition import compose
from situs.store import Preprocessing
from situs.studies.arms import SCRATCH, Arm, Comparison
from situs.transfer.laterality import positional

# Kept beside the results: what a study was to decide, and how many results it had by then.
DECIDES = "decides.json"

# What the study decides for every run; an arm that sets one of these would be no fair peer. All
# arms train for all their steps: validation cases are for learning rates, not for stopping early.
_PRETRAIN_RESERVED = {"method", "data", "out", "options", "weights", "backbone", "seed"}
_FINETUNE_RESERVED = {"task", "data", "dataset", "out", "init", "backbone", "preprocessing"} | {
    "train",
    "validation",
    "test",
    "seed",
    "overwrite",
    "patience",
    "validate_every",
}


class Tuning(Config):
    """Choice of each arm's learning rate, on validation cases that are never tested on.

    Attributes:
        lr: Candidates; with fewer than two nothing is tuned.
        labels: Label counts at which the choice is made; each count of the study takes the
            choice made at the nearest one. Empty: at every count.
        arms: Tune ``"each"`` arm, or only the ``"scratch"`` arms; the others then take the rate
            that was best from scratch, which favours scratch and costs less.
        seeds: Each draws training cases for one tuning run a candidate; the best mean wins. With
            several, a rate that only sometimes works is not taken for a good one.
    """

    lr: tuple[PositiveFloat, ...] = ()
    labels: tuple[PositiveInt, ...] = ()
    arms: Literal["each", "scratch"] = "each"
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)


class StudyConfig(Config):
    """Everything that decides the numbers of a study, and how it is carried out.

    Attributes:
        name: Heads the report.
        data: Labelled data set in any layout that situs reads.
        out: Where everything is kept; a second call goes on there.
        task: What the labels are for.
        metric: What is compared, one of :data:`~situs.evaluation.measures.METRICS` of the task; by
            default ``dice``, for classification ``balanced_accuracy``.
        dataset: What the files do not say by themselves: who the patient is, which images,
            whether some may lack a label.
        unlabelled: Further scans for pretraining.
        arms: What is compared.
        decides: What the study is to decide, in order, named before it is run. Each comparison
            is tested at 5 % while those before it were shown; all others are adjusted among
            themselves. Pages say how many results were there when these were named.
        labels: Numbers of labelled training cases, or of patients with all their cases.
        labels_are: What ``labels`` counts: ``"cases"`` or ``"patients"``.
        seeds: Each draws its own labelled cases, and seeds their fine-tuning. Few make wide
            intervals: three make them up to twice as wide as five.
        test: Test cases (at least; whole patients), or ``"given"`` by the data set, as with
            ``dataset.test``.
        folds: Cross-validation: so many disjoint sets of ``test`` test cases, each with validation,
            training and pretraining of the others; the last may have fewer. The report joins them.
        validation: Cases for tuning, disjoint from test and training.
        split_seed: Draws test and validation cases.
        near_duplicates: Scans of different patients that are (nearly) the same: refuse the
            study, or treat them as one patient.
        duplicate_correlation: From which correlation of downsampled scans on.
        backbone: Network and size of all arms.
        preprocessing: Of all scans, for all arms.
        pretrain: Settings of :class:`~situs.pretraining.config.PretrainConfig` for all arms.
        views: ``"patch"`` shows the network of each arm views of the fine-tuning patch's size while
            it is pretrained, where the method can choose and nothing else is given: a method
            that sees more of a scan at once than its rivals may win by that alone. The page
            names the arms that keep a size of their own.
        pretrain_per_seed: Pretrain anew for each seed, instead of once an arm.
        finetune: Settings of :class:`~situs.transfer.config.FinetuneConfig` for all arms.
        tune: Choice of learning rates.
        processes: Runs at a time; 0 takes as many as cores and threads allow.
        threads: CPU threads of each run.
        bootstrap: Draws of the bootstrap.
    """

    name: str = "study"
    data: Path
    out: Path
    task: Literal["segmentation", "classification"] = "segmentation"
    metric: str = ""
    dataset: DatasetOptions = Field(default_factory=DatasetOptions)
    unlabelled: tuple[Path, ...] = ()
    arms: tuple[Arm, ...]
    decides: tuple[Comparison, ...] = ()
    labels: tuple[PositiveInt, ...] = (4, 10, 40)
    labels_are: Literal["cases", "patients"] = "cases"
    seeds: tuple[Seed, ...] = (0, 1, 2, 3, 4)
    test: PositiveInt | Literal["given"] = 60
    folds: PositiveInt = 1
    validation: NonNegativeInt = 10
    split_seed: Seed = 0
    near_duplicates: Literal["refuse", "group"] = "refuse"
    duplicate_correlation: float = Field(ALIKE, gt=0, le=1)
    backbone: BackboneConfig = Field(default_factory=BackboneConfig)
    preprocessing: Preprocessing = Field(default_factory=Preprocessing)
    pretrain: dict[str, Any] = Field(default_factory=dict)
    views: Literal["own", "patch"] = "own"
    pretrain_per_seed: bool = False
    finetune: dict[str, Any] = Field(default_factory=dict)
    tune: Tuning = Field(default_factory=Tuning)
    processes: NonNegativeInt = 0
    threads: PositiveInt = 1
    bootstrap: PositiveInt = 5000

    @field_validator("labels", "seeds")
    @classmethod
    def _sorted_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError(f"must name each number once, got {value}")
        return tuple(sorted(value))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        titles = [arm.title for arm in self.arms]
        if len(set(titles)) != len(titles) or not titles:
            raise ValueError(f"arms must have names of their own, got {titles}")
        for arm in self.arms:
            if arm.against is not None and arm.against not in set(titles) - {arm.title}:
                raise ValueError(
                    f"arm '{arm.title}' is tested against '{arm.against}', which is no other arm"
                )
            if unknown := set(arm.labels) - set(self.labels):
                raise ValueError(f"arm '{arm.title}': {sorted(unknown)} not in the study's labels")
        self._check_decides()
        self._check_test()
        usable = [name for name, metric in METRICS.items() if metric.task == self.task]
        if self.metric and self.metric not in usable:
            raise ValueError(f"metric '{self.metric}' is none of {self.task}: {', '.join(usable)}")
        if len(self.tune.lr) > 1 and self.validation == 0:
            raise ValueError(
                f"tuning learning rates needs validation cases; set {setting('validation')}"
            )
        if self.views == "patch" and (blind := [a for a in self.arms if not self.patch_of(a)]):
            raise ValueError(
                f"views: patch needs a 'patch_size' in 'finetune'; arm '{blind[0].title}' has none"
            )
        settings = [("study", self.pretrain, self.finetune)]
        settings += [(f"arm '{a.title}'", a.pretrain, a.finetune) for a in self.arms]
        for who, pretrain, finetune in settings:
            if taken := _PRETRAIN_RESERVED & set(pretrain):
                raise ValueError(f"{who}: pretrain settings {sorted(taken)} belong to the study")
            if taken := _FINETUNE_RESERVED & set(finetune):
                raise ValueError(f"{who}: finetune settings {sorted(taken)} belong to the study")
        return self

    def _check_test(self) -> None:
        if self.dataset.test is not None and self.test != "given":
            raise ValueError("'dataset.test' names the test cases; set test: given with it")
        if self.folds > 1 and self.test == "given":
            raise ValueError("test cases that are given are one fold; set folds: 1, or test: N")

    def _check_decides(self) -> None:
        arms = {arm.title: arm for arm in self.arms}
        for one in self.decides:
            if unknown := {one.arm, one.against} - {None, *arms}:
                raise ValueError(f"'decides' names '{unknown.pop()}', which is no arm of the study")
            other = self.compared_in(one)
            if other is None or other.title == one.arm:
                raise ValueError(
                    f"'decides' compares '{one.arm}' with nothing; name another arm with 'against'"
                )
            for arm in (arms[one.arm], other):
                if one.labels not in self.labels_of(arm):
                    raise ValueError(
                        f"'decides' names '{arm.title}' with {one.labels} labels, which "
                        "it never has"
                    )

    @property
    def score(self) -> Metric:
        """What is compared."""
        return METRICS[self.metric or DEFAULT[self.task]]

    @property
    def keeps_sides(self) -> bool:
        """Whether the pretext task of any arm used position, so that no arm flips left-right."""
        begun = [arm.card.method for arm in self.arms if arm.init is not None and arm.card]
        return any(positional(method) for method in (*(a.method for a in self.arms), *begun))

    def backbone_of(self, arm: Arm) -> BackboneConfig:
        """The study's backbone with the arm's changes, in the method's dimension.

        An arm with weights of its own has their card's.
        """
        if arm.card is not None:
            return arm.card.backbone
        values = {**self.backbone.model_dump(), **arm.backbone}
        if arm.method != SCRATCH:
            values["spatial_dims"] = compose(arm.method, self.options_of(arm)).spatial_dims
        return validate(BackboneConfig, values)

    def patch_of(self, arm: Arm) -> tuple[int, ...]:
        """Voxels of the arm's patch in fine-tuning; empty where it is left to the data."""
        return tuple({**self.finetune, **arm.finetune}.get("patch_size") or ())

    def options_of(self, arm: Arm) -> dict[str, Any]:
        """The method's options, with views of the patch's size where ``views`` says so."""
        if self.views == "own" or arm.method == SCRATCH:
            return arm.options
        options, names = dict(arm.options), arm.methods
        for name in names:
            seeing = method_class(name).Config.seeing(self.patch_of(arm))
            if not seeing:
                continue
            if len(names) > 1 or name in options:
                options[name] = {**seeing, **options.get(name, {})}
            else:
                options = {**seeing, **options}
        return options

    def own_views(self) -> list[tuple[str, str]]:
        """Arm and method of those that keep views of a size of their own, despite ``views``."""
        found = []
        for arm in self.arms if self.views == "patch" else ():
            for name in arm.methods if arm.method != SCRATCH else ():
                options = self.options_of(arm)
                options = options.get(name, options)
                seeing = method_class(name).Config.seeing(self.patch_of(arm))
                kept = any(tuple(options.get(k, ())) != tuple(v) for k, v in seeing.items())
                if kept or not seeing:
                    found.append((arm.title, name))
        return found

    def labels_of(self, arm: Arm) -> tuple[int, ...]:
        """The label counts ``arm`` is run with."""
        return tuple(n for n in self.labels if not arm.labels or n in arm.labels)

    def reference_of(self, arm: Arm) -> Arm | None:
        """The arm that ``arm`` is tested against; None for scratch itself, or without one."""
        named = next((other for other in self.arms if other.title == arm.against), None)
        return named or self.scratch_of(arm)

    def compared_in(self, comparison: Comparison) -> Arm | None:
        """The arm that a comparison of ``decides`` is tested against; None if there is none."""
        arms = {arm.title: arm for arm in self.arms}
        if comparison.against is not None:
            return arms[comparison.against]
        return self.reference_of(arms[comparison.arm])

    def scratch_of(self, arm: Arm) -> Arm | None:
        """The scratch arm of a pretrained one: that it names, else that with its backbone."""
        if arm.scratch:
            return None
        scratch = [other for other in self.arms if other.scratch]
        named = [other for other in scratch if other.title == arm.against]
        alike = [other for other in scratch if self._alike(other, arm)]
        return next(iter([*named, *alike]), None)

    def _alike(self, scratch: Arm, arm: Arm) -> bool:
        """Whether two arms have one network and one preprocessing."""
        first, second = (None if a.card is None else a.card.preprocessing for a in (scratch, arm))
        return self.backbone_of(scratch) == self.backbone_of(arm) and first == second

    def tuned_for(self, arm: Arm) -> Arm | None:
        """The arm whose tuning decides the learning rate of ``arm``; None where nothing is tuned.

        An arm that names its rate keeps it.
        """
        if len(self.tune.lr) < 2 or "lr" in arm.finetune:
            return None
        return (self.scratch_of(arm) if self.tune.arms == "scratch" else None) or arm
