"""Labelled collections: cases with an image, a label or a target, a patient and a split.

Each layout in use (Decathlon, nnU-Net, BIDS, MedMNIST, folder pairs, CSV) is read by one small
module in ``situs.datasets.layouts``; the result is always a :class:`Dataset`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import field_validator

from situs.config import Config, load_config, unknown_name
from situs.datasets.layouts.arrays import read_member
from situs.errors import ScanRefused, SitusError, setting
from situs.made import beside_the_point
from situs.places import ON_DISK, check_local
from situs.registry import Registry
from situs.scans.channels import check_same_grid, read_channels
from situs.scans.read import finish, read_label
from situs.scans.refusals import refuse
from situs.scans.scan import Provenance, Scan

Task = Literal["segmentation", "classification"]
Target = int | float | tuple[int, ...]

# In the order of asking: a dataset.json says more than the folders beside it.
LAYOUTS = Registry(
    "layout",
    "situs.layouts",
    {
        name: f"situs.datasets.layouts.{name}"
        for name in ("medmnist", "csv", "nnunet", "decathlon", "bids", "folders")
    },
    ("fits", "open_layout"),
)


class DatasetError(SitusError):
    """A labelled collection that cannot be used: no known layout, or a pair that is missing."""


class DatasetOptions(Config):
    """What a collection's files do not say by themselves: the settings ``dataset.*``.

    Attributes:
        layout: Which reader opens it; found out where None.
        classes: Class number → name, where the layout does not declare them. Folder pairs
            otherwise read every label map once to learn which there are.
        patient: Regular expression whose first group (or whole match) in a case's name is the
            patient; every name must have it. By default a BIDS-like ``sub-…``, else every case
            is its own patient.
        suffix: BIDS only: which images, for instance ``"T1w"``.
        label: BIDS only: which label maps, where an image has several: what their names have,
            for instance ``"desc-lesion"``, ``"dseg"`` or ``"label-tumour_mask"``.
        allow_unlabelled: Accept images without a label where the layout would have one. They
            are cases of the data set, but none to fine-tune on or to test with.
        test: A second collection of the same kind whose cases are tested on, and nothing else.
    """

    layout: str | None = None
    classes: dict[int, str] | None = None
    patient: str | None = None
    suffix: str | None = None
    label: str | None = None
    allow_unlabelled: bool = False
    test: Path | None = None

    @field_validator("layout")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and not LAYOUTS.accepts(name):
            raise ValueError(f"is an {unknown_name('layout', name, LAYOUTS.names())}")
        return name

    @field_validator("patient")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"is no regular expression ({error})") from None
        return pattern


@dataclass(frozen=True)
class Case:
    """One labelled scan.

    Attributes:
        name: Unique in the dataset; taken from the file's name.
        image: The image; several files are channels of one scan.
        label: The label map, for segmentation.
        target: The class, or 0/1 for each class (multi-label), for classification.
        group: The patient: cases of one group never part company in a split.
        split: ``"train"``, ``"val"``, ``"test"`` or empty where the layout does not say.
        member: Name and index of the array inside ``image[0]``, for archives of arrays.
    """

    name: str
    image: tuple[Path, ...]
    label: Path | None = None
    target: Target | None = None
    group: str = ""
    split: str = ""
    member: tuple[str, int] | None = None


@dataclass(frozen=True)
class Dataset:
    """Cases and what their labels mean.

    Attributes:
        root: The folder or file that was opened.
        layout: Which reader opened it, one of :data:`LAYOUTS`.
        cases: All cases, labelled or not.
        classes: Class number → name. Segmentation counts the background, 0.
        task: What the labels are for.
        modalities: Of each channel, None where the layout does not state that one's; empty where
            it states none.
        multilabel: Whether a target is 0/1 for each class.
    """

    root: Path
    layout: str
    cases: tuple[Case, ...]
    classes: dict[int, str]
    task: Task
    modalities: tuple[str | None, ...] = ()
    multilabel: bool = False
    notes: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        names = ", ".join(self.classes.values())
        return f"Dataset('{self.root}', {len(self)} cases, {self.task} of {names})"

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def labelled(self) -> tuple[Case, ...]:
        """Cases with a label map or a target."""
        return tuple(c for c in self.cases if c.label is not None or c.target is not None)

    def split(self, name: str) -> Dataset:
        """The cases of one split."""
        return replace(self, cases=tuple(c for c in self.cases if c.split == name))

    def read(self, case: Case) -> tuple[Scan, Scan | None]:
        """Read a case and check that image and label belong together.

        Returns:
            The image ``(C, X, Y, Z)`` and its label map ``(1, X, Y, Z)`` int16 on the same
            grid, None where there is none.

        Raises:
            ScanRefused: From the readers, or ``channel-geometry``, ``label-geometry``,
                ``unknown-class``.
        """
        image = self._read_image(case)
        if case.label is None:
            return image, None
        label = read_label(case.label)
        check_same_grid(image, label, case.label, "label-geometry")
        unknown = sorted(set(np.unique(label.array).tolist()) - set(self.classes))
        if unknown:
            known = ", ".join(map(str, sorted(self.classes)))
            raise refuse("unknown-class", case.label, f"holds classes {unknown}; known: {known}")
        # Equal up to rounding of the header; from here on exactly equal.
        return image, replace(label, affine=image.affine)

    def check(
        self, progress: Callable[[int, int], None] | None = None
    ) -> tuple[Dataset, list[ScanRefused]]:
        """Read every case once.

        Returns:
            The dataset without the cases that cannot be used, and why each cannot.
        """
        kept, refused = [], []
        for number, case in enumerate(self.cases, 1):
            try:
                self.read(case)
                kept.append(case)
            except ScanRefused as error:
                refused.append(error)
            if progress is not None:
                progress(number, len(self.cases))
        return replace(self, cases=tuple(kept)), refused

    def _read_image(self, case: Case) -> Scan:
        if case.member is not None:
            array = read_member(case.image[0], *case.member)
            provenance = Provenance(format="array", notes=("no geometry: 1 mm voxels assumed",))
            scan = Scan(array[None], np.eye(4), "unknown", provenance)
            return finish(scan, case.image[0])
        return read_channels(case.image, self.modalities)


def open_dataset(
    path: str | Path, options: DatasetOptions | None = None, **settings: Any
) -> Dataset:
    """Open a labelled collection, whatever its layout.

    Args:
        path: A folder, a ``dataset.json``, an ``.npz`` of MedMNIST or a ``.csv`` of labels.
        options: What the files do not say by themselves.
        **settings: Fields of :class:`DatasetOptions`, for instance ``patient="^(p[0-9]+)"``; they
            go before those of ``options``.

    Raises:
        DatasetError: Where no layout fits, a pair is missing, or a class is not declared.
        ConfigError: For a setting that does not exist or cannot be used.
    """
    path = Path(path)
    if path.name == "dataset.json":
        path = path.parent
    check_local(path, ON_DISK)
    if not path.exists():
        raise DatasetError(f"dataset not found: {path} does not exist")
    given = {} if options is None else options.model_dump()
    options = load_config(DatasetOptions, {**given, **settings})
    dataset = _open_one(path, options)
    if options.test is not None:
        dataset = _with_test(dataset, options)
    _check_names(dataset)
    _check_classes(dataset)
    return dataset


def _open_one(path: Path, options: DatasetOptions) -> Dataset:
    for name in [options.layout] if options.layout else LAYOUTS.names():
        module = LAYOUTS.load(name)
        if options.layout or module.fits(path):
            for option in ("suffix", "label"):
                if getattr(options, option) and name != "bids":
                    raise DatasetError(
                        f"dataset.{option} is for BIDS, but {path} has layout '{name}'"
                    )
            dataset: Dataset = module.open_layout(path, options)
            return dataset
    raise DatasetError(
        f"{path} has none of the layouts that situs knows: a dataset.json (Decathlon, nnU-Net), "
        "dataset_description.json (BIDS), folders images/ and labels/, a MedMNIST .npz, or a "
        f".csv with a column 'image'{beside_the_point(path)}"
    )


def _with_test(dataset: Dataset, options: DatasetOptions) -> Dataset:
    """The data set and its test collection as one; what it declared as test is left out."""
    assert options.test is not None
    if not options.test.exists():
        raise DatasetError(f"test data set not found: {options.test}")
    test = _open_one(options.test, options.model_copy(update={"test": None}))
    named = (dataset.classes, dataset.task, dataset.multilabel, dataset.modalities)
    if (test.classes, test.task, test.multilabel, test.modalities) != named:
        raise DatasetError(
            f"{options.test} has classes {test.classes} for {test.task}, {dataset.root} has "
            f"{dataset.classes} for {dataset.task}; both must be labelled alike. Classes can be "
            "stated for both with dataset.classes"
        )
    tested = tuple(replace(case, split="test") for case in test.cases)
    kept = tuple(case for case in dataset.cases if case.split != "test")
    return replace(dataset, cases=(*kept, *tested), notes=(*dataset.notes, *test.notes))


def _check_names(dataset: Dataset) -> None:
    seen: dict[str, Case] = {}
    for case in dataset.cases:
        first = seen.setdefault(case.name, case)
        if first is not case:
            raise DatasetError(
                f"{dataset.root}: two cases are named '{case.name}' ({first.image[0]} and "
                f"{case.image[0]}); rename one, or give a CSV a column 'name'"
            )
    if not dataset.cases:
        raise DatasetError(f"{dataset.root}: layout '{dataset.layout}', but no case in it")


def _check_classes(dataset: Dataset) -> None:
    if dataset.task == "segmentation" and not any(dataset.classes):
        raise DatasetError(
            f"{dataset.root}: no foreground class in any label; there is nothing to segment. Are "
            "these the right label maps?"
        )


def missing_pair(root: Path, what: str, names: Sequence[str], remedy: str) -> DatasetError:
    """The error for images without labels, or labels without images; names the first few."""
    shown = ", ".join(sorted(names)[:5]) + (", …" if len(names) > 5 else "")
    return DatasetError(f"{root.name}: {len(names)} {what}: {shown}. {remedy}")


def without_label(root: Path, what: str, names: Sequence[str]) -> DatasetError:
    """The error for images whose label or target is missing, and how to go on without it."""
    leave_out = setting("dataset.allow_unlabelled=true")
    remedy = f"Add what is missing, or say {leave_out} to leave it out."
    return missing_pair(root, what, names, remedy)
