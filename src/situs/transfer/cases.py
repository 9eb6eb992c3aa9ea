"""Labelled cases, prepared once and kept in memory."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from situs.errors import ConfigError
from situs.scans.datasets import Case, Dataset, open_dataset
from situs.store import Prepared, Preprocessing, preprocess
from situs.store.grid import orientation

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
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis of the prepared grid."""
        x, y, z = self.image.shape[1:]
        return (x, y, z)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres along each axis of the prepared grid."""
        return self.prepared.spacing


class Cohort:
    """A labelled data set whose cases are prepared when first asked for, then kept.

    Many fine-tunings can share one: preparation is paid once.

    Args:
        dataset: From :func:`situs.scans.datasets.open_dataset`.
        rules: Preprocessing; a median spacing is worked out here, from at most 64 cases spread
            over the data set whatever their split, so that every fine-tuning sees one grid.
    """

    def __init__(self, dataset: Dataset, rules: Preprocessing) -> None:
        self.dataset = dataset
        self._cases = {case.name: case for case in dataset.labelled}
        if not self._cases:
            raise ConfigError(f"{dataset.root} has no labelled case")
        self._prepared: dict[str, PreparedCase] = {}
        self.rules = self.settled(rules)

    @classmethod
    def open(cls, data: str | Path, rules: Preprocessing | None = None) -> Cohort:
        """Open a labelled data set in any of the layouts that situs reads."""
        return cls(open_dataset(data), rules or Preprocessing())

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

    def target(self, name: str) -> tuple[int, ...]:
        """The class index of a scan, or 0/1 a class; empty for segmentation."""
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
            raise _unknown(name, self)
        if name not in self._prepared:
            self._prepared[name] = self._prepare(self._cases[name])
        return self._prepared[name]

    def load(self, names: Iterable[str]) -> list[PreparedCase]:
        """Several cases, prepared."""
        return [self[name] for name in names]

    def _prepare(self, case: Case) -> PreparedCase:
        scan, truth = self.dataset.read(case)
        prepared = preprocess(scan, self.rules, truth)
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

    def settled(self, rules: Preprocessing) -> Preprocessing:
        """The rules with a median spacing worked out for this data set."""
        if rules.spacing != "median":
            return rules
        names = self.names
        chosen = [names[i] for i in np.linspace(0, len(names) - 1, _SPACING_CASES).astype(int)]
        spacings = []
        for name in dict.fromkeys(chosen):
            scan, _ = self.dataset.read(self._cases[name])
            axes, _ = orientation(scan.affine)
            spacings.append([scan.spacing[a] for a in axes])
        x, y, z = (round(float(s), 4) for s in np.median(spacings, axis=0))
        return rules.resolved((x, y, z))


@dataclass(frozen=True)
class Split:
    """Names of the cases of each part."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def choose(
    cohort: Cohort,
    train: int | Sequence[str] | None,
    validation: int | Sequence[str] | None,
    test: int | Sequence[str] | None,
    seed: int,
) -> Split:
    """Fix who is trained on, who stops training early and who is tested.

    Numbers are drawn from the patients that no list names, in one order that depends on
    ``seed`` only: test cases from its end, validation cases before them, training cases from
    its start. So with one seed fewer training cases are a subset of more, and the test cases
    are the same. The cases of a patient are never parted.

    Args:
        cohort: Where the cases are.
        train: Names, a number of cases, or None for all that remain.
        validation: The same.
        test: The same.
        seed: Of the drawing.

    Raises:
        ConfigError: For unknown names, a case or patient in two parts, or too few cases.
    """
    wishes = {"train": train, "validation": validation, "test": test}
    named = {k: list(w) for k, w in wishes.items() if w is not None and not isinstance(w, int)}
    _check(cohort, named)
    taken = {cohort.group(name) for names in named.values() for name in names}
    groups: dict[str, list[str]] = {}
    for name in cohort.names:
        if cohort.group(name) not in taken:
            groups.setdefault(cohort.group(name), []).append(name)
    order = [list(groups)[i] for i in np.random.default_rng(seed).permutation(len(groups))]
    parts: dict[str, list[str]] = dict(named)
    # All that remain comes last, when the numbers have taken their share.
    for part in sorted(("test", "validation", "train"), key=lambda p: wishes[p] is None):
        if part in parts:
            continue
        wish = wishes[part]
        end = 0 if part == "train" else -1
        parts[part] = []
        while order and (wish is None or len(parts[part]) < int(wish)):  # type: ignore[arg-type]
            parts[part] += groups[order.pop(end)]
        if isinstance(wish, int):
            if len(parts[part]) < wish:
                raise ConfigError(
                    f"'{part}' asks for {wish} cases, but {len(parts[part])} are left of "
                    f"{len(cohort.names)} labelled ones"
                )
            parts[part] = parts[part][:wish]
    if not parts["train"] or not parts["test"]:
        empty = "train" if not parts["train"] else "test"
        raise ConfigError(f"no case is left for '{empty}'")
    return Split(*(tuple(parts[part]) for part in ("train", "validation", "test")))


def _check(cohort: Cohort, named: dict[str, list[str]]) -> None:
    where: dict[str, str] = {}
    for part, names in named.items():
        for name in names:
            if name not in cohort.names:
                raise _unknown(name, cohort)
            patient = cohort.group(name)
            if where.setdefault(patient, part) != part:
                raise ConfigError(
                    f"case '{name}' in '{part}' belongs to a patient who is in "
                    f"'{where[patient]}', too: scores would be too good"
                )


def _unknown(name: str, cohort: Cohort) -> ConfigError:
    near = difflib.get_close_matches(name, cohort.names, n=1) or cohort.names[:1]
    return ConfigError(
        f"no labelled case '{name}' in {cohort.dataset.root}, which has {len(cohort.names)} "
        f"(for instance '{near[0]}')"
    )


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
