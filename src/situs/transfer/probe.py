"""``situs probe``: what frozen features already know, by nearest neighbours and a linear layer."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from situs.backbones import Backbone, build
from situs.config import Config, Seed, load_config, validate
from situs.datasets.dataset import DatasetOptions
from situs.errors import ConfigError
from situs.splits.split import Split
from situs.store import Preprocessing
from situs.transfer.cases import Cohort, PreparedCase
from situs.transfer.config import Cases
from situs.transfer.features import scan_feature, slice_axis_of, voxel_features
from situs.transfer.splits import choose
from situs.weights import load_card, load_encoder

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_NEIGHBOURS = 20


class ProbeSettings(Config):
    """How to probe.

    Attributes:
        dataset: What the data set's files do not say by themselves.
        train: Cases that the probes learn from; by default half of them.
        test: Cases they are scored on; by default all others.
        voxels_per_class: Voxels of each class, background included, drawn from each case.
        seed: Seed of everything drawn.
    """

    dataset: DatasetOptions = Field(default_factory=DatasetOptions)
    train: Cases = None
    test: Cases = None
    voxels_per_class: int = Field(50, ge=1)
    seed: Seed = 0


class ProbeRow(Config):
    """One probe on one kind of features.

    Attributes:
        features: ``"pretrained"``, or ``"random"`` weights of the same network.
        probe: ``"knn"`` (20 nearest neighbours) or ``"linear"`` (logistic regression).
        balanced_accuracy: Mean recall of the classes that the test samples have.
        recall: Class name → recall; None for a class without a test sample, or left out.
    """

    features: Literal["pretrained", "random"]
    probe: Literal["knn", "linear"]
    balanced_accuracy: float
    recall: dict[str, float | None]


class ProbeResult(Config):
    """Both probes on both kinds of features.

    Attributes:
        run: Whose encoder was probed.
        what: ``"voxel labels"`` or ``"scan labels"``.
        rows: The scores.
        chance: Balanced accuracy of guessing.
        samples: ``train`` and ``test`` → voxels (or scans) that the probes saw.
        cases: ``train`` and ``test`` → names of cases.
        left_out: Classes (of scans that can have several) that all or none of the training
            scans have: nothing could be learned about them.
        seconds: In all.
    """

    run: str
    what: Literal["voxel labels", "scan labels"]
    rows: tuple[ProbeRow, ...]
    chance: float
    samples: dict[str, int]
    cases: dict[str, tuple[str, ...]]
    left_out: tuple[str, ...] = ()
    seconds: float

    def __repr__(self) -> str:
        scores = ", ".join(
            f"{row.probe} on {row.features} {row.balanced_accuracy:.3f}" for row in self.rows
        )
        return f"ProbeResult('{self.run}', {self.what}: {scores}, chance {self.chance:.3f})"


def probe(
    run: str | Path,
    data: str | Path,
    settings: ProbeSettings | None = None,
    *,
    cohort: Cohort | None = None,
    **changes: Any,
) -> ProbeResult:
    """Ask how well labels can be read off frozen features.

    For voxel labels, a voxel's feature is what all scales say at its place; for scan labels, the
    mean over the scan. Random weights of the same network are asked the same.

    Args:
        run: Run or weights folder.
        data: A labelled data set.
        settings: Cases, dataset options, voxels, seed.
        cohort: The data set already opened with the run's preprocessing.
        **changes: Fields of :class:`ProbeSettings`, for instance ``train=4``; they go before
            those of ``settings``.

    Raises:
        TransferError: If the run has no weights.
        ConfigError: If a setting does not exist, the data set cannot be split as asked, or the
            training cases have a single class.
    """
    began = time.perf_counter()
    given = {} if settings is None else dict(settings)
    settings = load_config(ProbeSettings, {**given, **changes})
    card = load_card(run)
    preprocessing = validate(Preprocessing, card.preprocessing)
    cohort = cohort or Cohort.open(data, preprocessing, settings.dataset)
    train, seed = settings.train, settings.seed
    if train is None and settings.test is None:
        train = max(1, len(cohort.names) // 2)
    split = choose(cohort, train, 0, settings.test, seed)
    segmentation = cohort.dataset.task == "segmentation"
    names = list(cohort.classes.values())
    rows: list[ProbeRow] = []
    learnable: list[int] = []
    counts = {"train": 0, "test": 0}
    truth: Ints = np.empty(0, np.int64)
    for kind, backbone in _networks(run, seed):
        _check_channels(backbone, cohort[split.train[0]])
        axis = slice_axis_of(backbone, cohort.load(split.train))
        samples = {
            part: _samples(
                backbone, cohort.load(chosen), segmentation, settings.voxels_per_class, seed, axis
            )
            for part, chosen in (("train", split.train), ("test", split.test))
        }
        counts = {part: len(y) for part, (_, y) in samples.items()}
        truth = samples["test"][1]
        learnable = _learnable(samples["train"][1], names)
        rows += _fit_both(kind, samples["train"], samples["test"], names, learnable)
    return ProbeResult(
        run=str(run),
        what="voxel labels" if segmentation else "scan labels",
        rows=tuple(rows),
        chance=0.5 if truth.ndim == 2 else 1 / len(np.unique(truth)),
        samples=counts,
        cases=_case_names(split),
        left_out=tuple(name for k, name in enumerate(names) if k not in learnable),
        seconds=round(time.perf_counter() - began, 2),
    )


def _networks(run: str | Path, seed: int) -> list[tuple[Literal["pretrained", "random"], Backbone]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random = build(load_card(run).backbone).eval()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return [("pretrained", load_encoder(run).to(device)), ("random", random.to(device))]


def _samples(
    backbone: Backbone,
    cases: Sequence[PreparedCase],
    segmentation: bool,
    voxels_per_class: int,
    seed: int,
    axis: int | None,
) -> tuple[Floats, Ints]:
    features: list[Floats] = []
    labels: list[Ints] = []
    for number, case in enumerate(cases):
        if case.target is not None and not segmentation:
            features.append(scan_feature(backbone, case.image, axis, case.background)[None])
            labels.append(np.atleast_1d(case.target)[None])
            continue
        # The same voxels for every network.
        rng = np.random.default_rng([seed, number])
        voxels, values = _draw_voxels(case, voxels_per_class, rng)
        features.append(voxel_features(backbone, case.image, voxels, axis, case.background))
        labels.append(values)
    y = np.concatenate(labels)
    single = y.ndim == 2 and y.shape[1] == 1
    return np.concatenate(features), y[:, 0] if single else y


def _draw_voxels(case: PreparedCase, per_class: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """``(N, 3)`` voxels and ``(N,)`` classes; as many of each class as there are, at most."""
    if case.label is None:
        raise ValueError(f"{case.name} has no label volume")
    flat = case.label.ravel()
    background = np.flatnonzero(flat == 0)
    chosen = [
        rng.choice(places, min(per_class, len(places)), replace=False)
        for places in (background, *case.places)
        if len(places)
    ]
    index = np.concatenate(chosen)
    voxels = np.stack(np.unravel_index(index, case.shape), axis=-1)
    return voxels.astype(np.int64), flat[index].astype(np.int64)


def _learnable(labels: Ints, names: Sequence[str]) -> list[int]:
    """Classes that the training samples say something about.

    For several labels a scan, those that some scans have and others have not.

    Raises:
        ConfigError: If there is nothing to tell apart.
    """
    if labels.ndim == 2:
        classes = [k for k, column in enumerate(labels.T) if len(np.unique(column)) > 1]
    else:
        classes = list(range(len(names))) if len(np.unique(labels)) > 1 else []
    if not classes:
        only = "" if labels.ndim == 2 else f": all are '{names[int(labels[0])]}'"
        raise ConfigError(f"the training cases do not differ in their labels{only}; use more cases")
    return classes


def _fit_both(
    kind: Literal["pretrained", "random"],
    train: tuple[Floats, Ints],
    test: tuple[Floats, Ints],
    names: Sequence[str],
    learnable: Sequence[int],
) -> list[ProbeRow]:
    neighbours = min(_NEIGHBOURS, max(1, len(train[1]) // 4))
    probes: dict[Literal["knn", "linear"], Any] = {
        "knn": KNeighborsClassifier(neighbours, weights="distance"),
        "linear": LogisticRegression(max_iter=1000, class_weight="balanced"),
    }
    rows = []
    for name, classifier in probes.items():
        if train[1].ndim == 1:
            predicted = _predicted(classifier, *train, test[0])
        else:
            predicted = np.zeros_like(test[1])
            for k in learnable:
                predicted[:, k] = _predicted(classifier, train[0], train[1][:, k], test[0])
        recall, balanced = _recalls(test[1], predicted, names, learnable)
        rows.append(ProbeRow(features=kind, probe=name, balanced_accuracy=balanced, recall=recall))
    return rows


def _predicted(classifier: Any, features: Floats, labels: Ints, asked: Floats) -> Ints:
    pipeline: Pipeline = make_pipeline(StandardScaler(), classifier)
    with warnings.catch_warnings():
        # Separable features have no optimum; where it stopped is good enough for a probe.
        warnings.simplefilter("ignore", ConvergenceWarning)
        pipeline.fit(features, labels)
    predicted: Ints = pipeline.predict(asked)
    return predicted


def _recalls(
    true: Ints, predicted: Ints, names: Sequence[str], learnable: Sequence[int]
) -> tuple[dict[str, float | None], float]:
    recall: dict[str, float | None] = dict.fromkeys(names)
    scores = []
    for k in learnable:
        t, p = (true[:, k], predicted[:, k]) if true.ndim == 2 else (true == k, predicted == k)
        if not t.any():
            continue
        hit = float(recall_score(t, p))
        recall[names[k]] = hit
        # For several labels a scan, a class is decided by itself: both of its sides count.
        other = float(np.mean(p[t == 0] == 0)) if true.ndim == 2 and (t == 0).any() else None
        scores.append(hit if other is None else (hit + other) / 2)
    if not scores:
        raise ConfigError("no test case has a class that could be learned; test on more cases")
    return recall, float(np.mean(scores))


def _check_channels(backbone: Backbone, case: PreparedCase) -> None:
    if case.image.shape[0] != backbone.in_channels:
        raise ConfigError(
            f"case '{case.name}' has {case.image.shape[0]} channel(s), the encoder was trained "
            f"on {backbone.in_channels}; frozen features cannot be adapted, fine-tune instead"
        )


def _case_names(split: Split) -> dict[str, tuple[str, ...]]:
    return {"train": split.train, "test": split.test}
