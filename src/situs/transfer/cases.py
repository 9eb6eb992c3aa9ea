"""Labelled cases, prepared once and kept in memory."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from situs.datasets.dataset import Case, Dataset, DatasetOptions, open_dataset
from situs.errors import ConfigError
from situs.store import Prepared, Preprocessing, preprocess
from situs.store.crop import Background
from situs.store.grid import median_spacing_of
from situs.store.intensity import Kind, foreground_box

T = TypeVar("T")

_PLACES_A_CLASS = 20_000
"""Voxels a class that patches may be centred on; more would only cost memory."""
_SPACING_CASES = 64
"""Cases whose spacing decides a median spacing."""


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """One scan after preprocessing, with what is known about it.

    Attributes:
        name: Of the case in its data set.
        prepared: Scan after preprocessing, and the way back.
        affine: ``(4, 4)`` of the scan's own grid, voxel centres to RAS mm.
        label: ``(X, Y, Z)`` class *indices* on the prepared grid; None without.
        truth: ``(X, Y, Z)`` label *values* on the scan's own grid; None without.
        target: Class index ``()`` or 0/1 a class ``(K,)`` of the whole scan; None without.
        places: Flat indices of voxels of each foreground class that the case has.
    """

    name: str
    prepared: Prepared
    affine: npt.NDArray[np.float64]
    label: npt.NDArray[np.int16] | None = None
    truth: npt.NDArray[np.int16] | None = None
    target: npt.NDArray[np.int64] | None = None
    places: tuple[npt.NDArray[np.int64], ...] = field(default=(), repr=False)

    @property
    def image(self) -> npt.NDArray[np.float32]:
        """``(C, X, Y, Z)``."""
        return self.prepared.array

    @property
    def background(self) -> Background:
        """What lies outside the scan, one value a channel: its own air."""
        return self.prepared.background

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis of the prepared grid."""
        x, y, z = self.image.shape[1:]
        return (x, y, z)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres along each axis of the prepared grid."""
        return self.prepared.spacing

    @cached_property
    def ends_in_air(self) -> npt.NDArray[np.bool_]:
        """``(3, 2)``: whether nothing of the body is at the first and the last voxels of each axis.

        What lies beyond is air then, and background is what it would look like.
        """
        kinds: list[Kind] = ["relative"] * len(self.image)  # as the values are, normalised
        start, stop = foreground_box(self.image, self.spacing, kinds, 0.0)
        return np.stack([np.array(start) > 0, np.array(stop) < self.shape], axis=1)

    @property
    def nbytes(self) -> int:
        """Memory that the case takes."""
        arrays = (self.image, self.prepared.label, self.label, self.truth, *self.places)
        return sum(a.nbytes for a in arrays if a is not None)


@dataclass(frozen=True)
class Channel:
    """How the values of a channel are read; None where that is not known or not settled."""

    modality: str | None
    intensity: Kind | None


class Cohort:
    """A labelled data set whose cases are prepared when first asked for, then kept.

    Many fine-tunings can share one: preparation is paid once. Cases beyond ``keep_bytes`` are
    prepared anew each time, so that large collections do not fill the memory.

    Args:
        dataset: From :func:`situs.datasets.dataset.open_dataset`.
        preprocessing: Of its scans; a median spacing is worked out here, from at most 64 cases
            spread over the data set whatever their split, so that every fine-tuning sees one grid.
        keep_bytes: Memory for prepared cases.
    """

    def __init__(
        self, dataset: Dataset, preprocessing: Preprocessing, keep_bytes: int = 8 * 2**30
    ) -> None:
        self.dataset = dataset
        self.keep_bytes = keep_bytes
        self._kept_bytes = 0
        self._spacing: tuple[float, float, float] | None = None
        self._cases = {case.name: case for case in dataset.labelled}
        if not self._cases:
            raise ConfigError(f"{dataset.root} has no labelled case")
        self._prepared: dict[str, PreparedCase] = {}
        self._channels: dict[str, tuple[Channel, ...]] = {}
        self.preprocessing = self.settled(preprocessing)

    @classmethod
    def open(
        cls,
        data: str | Path,
        preprocessing: Preprocessing | None = None,
        dataset: DatasetOptions | None = None,
    ) -> Cohort:
        """Open a labelled data set in any of the layouts that situs reads."""
        return cls(open_dataset(data, dataset), preprocessing or Preprocessing())

    @property
    def names(self) -> list[str]:
        """Names of the labelled cases, sorted."""
        return sorted(self._cases)

    @property
    def classes(self) -> dict[int, str]:
        """Label value → class name, by value; for segmentation 0 is the background."""
        return dict(sorted(self.dataset.classes.items()))

    def group(self, name: str) -> str:
        """What must not be split: the patient of a case."""
        return self._cases[name].group or name

    def declared_split(self, name: str) -> str:
        """``"train"``, ``"val"`` or ``"test"`` where the data set says, else empty."""
        return self._cases[name].split

    def target(self, name: str) -> tuple[int, ...]:
        """The class index of a scan, or 0/1 a class; empty for segmentation.

        Raises:
            ConfigError: If the target is none of the classes.
        """
        target = self._cases[name].target
        if target is None:
            return ()
        if isinstance(target, tuple):
            return target
        if target not in self.dataset.classes:
            raise ConfigError(
                f"case '{name}' has the target {target}, which is no class of "
                f"{self.dataset.root}; known: {sorted(self.dataset.classes)}"
            )
        return (list(self.classes).index(int(target)),)

    def __getitem__(self, name: str) -> PreparedCase:
        if name not in self._cases:
            raise self.unknown(name)
        if name in self._prepared:
            return self._prepared[name]
        case = self._prepare(self._cases[name])
        if self._kept_bytes + case.nbytes <= self.keep_bytes:
            self._prepared[name] = case
            self._kept_bytes += case.nbytes
        return case

    def unknown(self, name: str) -> ConfigError:
        """The error for a case that is not there; suggests the nearest name."""
        near = difflib.get_close_matches(name, self.names, n=1) or self.names[:1]
        return ConfigError(
            f"no labelled case '{name}' in {self.dataset.root}, which has {len(self.names)} "
            f"(for instance '{near[0]}')"
        )

    def load(self, names: Iterable[str]) -> list[PreparedCase]:
        """Several cases, prepared and in memory together."""
        return [self[name] for name in names]

    def stream(self, names: Iterable[str]) -> Iterator[PreparedCase]:
        """Several cases, one after the other."""
        return (self[name] for name in names)

    def channels(self, names: Sequence[str]) -> list[Channel]:
        """What is the same of each channel in all of these cases.

        All of them are prepared for it, and kept as far as memory goes.

        Raises:
            ScanRefused: For the first that cannot be read, or whose label lies elsewhere or has
                unknown classes.
        """
        for name in names:
            if name not in self._channels:
                self[name]
        found = [self._channels[name] for name in names]
        return [
            Channel(_only({c.modality for c in same}), _only({c.intensity for c in same}))
            for same in zip(*found, strict=False)
        ]

    def _prepare(self, case: Case) -> PreparedCase:
        scan, truth = self.dataset.read(case)
        prepared = preprocess(scan, self.preprocessing, truth)
        self._channels[case.name] = tuple(
            Channel(None if modality == "unknown" else modality, intensity)
            for modality, intensity in zip(scan.channel_modalities, prepared.intensity, strict=True)
        )
        target = self.target(case.name)
        values = None
        if target:
            values = np.array(target if self.dataset.multilabel else target[0], dtype=np.int64)
        if truth is None or prepared.label is None:
            return PreparedCase(case.name, prepared, scan.affine, target=values)
        known = np.array(list(self.classes))
        label = np.searchsorted(known, prepared.label).astype(np.int16)
        return PreparedCase(
            name=case.name,
            prepared=prepared,
            affine=scan.affine,
            label=label,
            truth=truth.array[0].astype(np.int16),
            target=values,
            places=places(label),
        )

    def settled(self, preprocessing: Preprocessing) -> Preprocessing:
        """The preprocessing with a median spacing worked out for this data set."""
        if preprocessing.spacing != "median":
            return preprocessing
        if self._spacing is None:
            self._spacing = self._median_spacing()
        return preprocessing.resolved(self._spacing)

    def _median_spacing(self) -> tuple[float, float, float]:
        names = self.names
        chosen = [names[i] for i in np.linspace(0, len(names) - 1, _SPACING_CASES).astype(int)]
        scans = (self.dataset.read(self._cases[name])[0] for name in dict.fromkeys(chosen))
        return median_spacing_of((scan.affine, scan.spacing) for scan in scans)


def _only(values: set[T]) -> T | None:
    return next(iter(values)) if len(values) == 1 else None


def places(label: npt.NDArray[np.int16], seed: int = 0) -> tuple[npt.NDArray[np.int64], ...]:
    """Flat indices of voxels of each foreground class, thinned out where there are very many."""
    flat = label.ravel()
    rng = np.random.default_rng(seed)
    found = []
    for index in np.unique(flat[flat > 0]):
        voxels = np.flatnonzero(flat == index)
        if len(voxels) > _PLACES_A_CLASS:
            voxels = np.sort(rng.choice(voxels, _PLACES_A_CLASS, replace=False))
        found.append(voxels)
    return tuple(found)
