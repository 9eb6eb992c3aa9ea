"""One or several fine-tuned models applied together, with settings chosen at prediction time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveInt

from situs.config import Config, validate
from situs.errors import ConfigError, TransferError
from situs.files import sha256
from situs.scans.scan import Scan
from situs.store import Prepared, preprocess, restore, restore_largest
from situs.transfer.laterality import sided
from situs.transfer.model import Model, Task
from situs.weights import weights_folder

_ALIKE = ("kind", "classes", "multi_label", "modalities")


class PredictSettings(Config):
    """How a model is applied; None keeps what its fine-tuning wrote.

    Attributes:
        overlap: Of neighbouring windows, 0 to below 1; more is smoother and slower.
        flip_axes: Volume axes (0 is left-right) over whose flips probabilities are averaged; an
            empty list for none.
        patch_size: Voxels of a window along each of the network's axes.
    """

    overlap: Annotated[float, Field(ge=0, lt=1)] | None = None
    flip_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] | None = None
    patch_size: tuple[PositiveInt, ...] | None = None

    def applied(self, model: Model) -> Model:
        """The same network under these settings.

        Raises:
            ConfigError: If the network takes no such windows, or the data has sides that a flip
                would exchange.
        """
        given = {name: value for name, value in self if value is not None}
        if 0 in given.get("flip_axes", ()) and (sides := sided(model.task.classes.values())):
            raise ConfigError(
                f"flip_axes: class '{sides[0]}' has a side, which a left-right flip would exchange"
            )
        if self.patch_size is not None:
            backbone = model.network.backbone
            if len(self.patch_size) != backbone.spatial_dims:
                raise ConfigError(
                    f"patch_size must have {backbone.spatial_dims} numbers, got "
                    f"{list(self.patch_size)}"
                )
            backbone.check_size(self.patch_size)
        return replace(model, task=model.task.model_copy(update=given))


@dataclass(frozen=True)
class Found:
    """What models say of a scan.

    Attributes:
        labels: Label values on the scan's own grid, ``(X, Y, Z)``; None of a classification.
        probabilities: Of each class: ``(K, X, Y, Z)`` on the scan's own grid, only where they
            were asked for, or ``(K,)`` of a classification.
    """

    labels: npt.NDArray[np.int16] | None
    probabilities: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class Ensemble:
    """Models whose probabilities are averaged: seeds or folds of one task.

    Attributes:
        models: At least one.
        names: Of each, for the record.
        settings: What was chosen at prediction time.
    """

    models: tuple[Model, ...]
    names: tuple[str, ...]
    settings: PredictSettings

    @classmethod
    def load(
        cls,
        models: Model | str | Path | Sequence[Model | str | Path],
        settings: Mapping[str, Any] | PredictSettings | None = None,
    ) -> Ensemble:
        """Read models, and check that they answer one question.

        Args:
            models: Result folders of fine-tunings, or what :meth:`Model.load` made of them.
            settings: Fields of :class:`PredictSettings`.

        Raises:
            ConfigError: For settings that do not fit.
            TransferError: If a folder holds no model, or models differ in what they predict or
                in what they are given.
        """
        given = [models] if isinstance(models, Model | str | Path) else list(models)
        if not isinstance(settings, PredictSettings):
            settings = validate(PredictSettings, settings or {})
        loaded, names = [], []
        for item in given:
            model = item if isinstance(item, Model) else Model.load(item).to_device()
            loaded.append(settings.applied(model))
            names.append("a model in memory" if isinstance(item, Model) else _identity(item))
        first = loaded[0]
        for other, path in zip(loaded[1:], given[1:], strict=True):
            differing = [n for n in _ALIKE if getattr(other.task, n) != getattr(first.task, n)]
            if other.card.backbone.in_channels != first.card.backbone.in_channels:
                differing.append("channels")
            if differing:
                raise TransferError(
                    f"{path} was fine-tuned for another task than {given[0]}: they differ in "
                    f"{', '.join(differing)}; only models of one task can be averaged"
                )
        return cls(tuple(loaded), tuple(names), settings)

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.models[0].task

    @property
    def channels(self) -> int:
        """Channels of a scan."""
        return self.models[0].card.backbone.in_channels

    def record(self, probabilities: bool) -> dict[str, Any]:
        """What decides the numbers, for the folder of predictions."""
        return {
            "models": list(self.names),
            "settings": self.settings.model_dump(mode="json"),
            "probabilities": probabilities,
        }

    def predict(self, scan: Scan, *, probabilities: bool = False) -> Found:
        """Segment or classify a scan.

        Args:
            scan: Its channels are those of the models' data.
            probabilities: Of a segmentation, keep them on the scan's own grid.

        Raises:
            ScanRefused: If the scan cannot be prepared.
        """
        groups: dict[object, list[Model]] = defaultdict(list)
        for model in self.models:
            key = (model.task.preprocessing, model.task.intensity)
            groups[key].append(model)
        made = [_prepared_mean(scan, models) for models in groups.values()]
        weights = [len(models) / len(self.models) for models in groups.values()]
        if self.task.kind == "classification":
            return Found(None, _weighted([values for _, values in made], weights))
        labels = np.array(list(self.task.classes), dtype=np.int16)
        if len(made) == 1 and not probabilities:
            prepared, values = made[0]
            return Found(labels[restore_largest(values, prepared)], None)
        restored = [_restored(values, prepared) for prepared, values in made]
        mean = _weighted(restored, weights)
        return Found(labels[mean.argmax(0)], mean)


def _identity(path: str | Path) -> str:
    """Name of a result and the checksum of its card, which holds those of its weights."""
    folder = weights_folder(path)
    digest = sha256((folder / "card.json").read_bytes(), digits=16)
    return f"{Path(path).resolve().name} {digest}"


def _prepared_mean(scan: Scan, models: Sequence[Model]) -> tuple[Prepared, npt.NDArray[np.float32]]:
    """A scan as these models want it, and the mean of what they say."""
    task = models[0].task
    prepared = preprocess(scan, task.preprocessing, kinds=task.intensity)
    found = (model.probabilities(prepared) for model in models)
    total: npt.NDArray[np.float32] = reduce(lambda a, b: np.add(a, b, out=a), found)
    total /= len(models)
    return prepared, total


def _restored(values: npt.NDArray[np.float32], prepared: Prepared) -> npt.NDArray[np.float32]:
    """Probabilities on the scan's own grid; what was cropped as air is background."""
    whole = np.asarray(restore(values, prepared), dtype=np.float32)
    whole[0][whole.sum(0) == 0] = 1
    return whole


def _weighted(
    parts: Sequence[npt.NDArray[np.float32]], weights: Sequence[float]
) -> npt.NDArray[np.float32]:
    total = np.zeros_like(parts[0])
    for part, weight in zip(parts, weights, strict=True):
        total += np.float32(weight) * part
    return total
