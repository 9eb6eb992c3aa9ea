"""MedMNIST 3D: an ``.npz`` of ``{train,val,test}_images`` (N, X, Y, Z) and ``…_labels`` (N, L)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from situs.datasets.dataset import Case, Dataset, DatasetError, DatasetOptions, Target
from situs.datasets.layouts.arrays import read_array, shapes

_SPLITS = ("train", "val", "test")


def fits(path: Path) -> bool:
    """Whether this is an archive of arrays."""
    return path.suffix == ".npz"


def open_layout(path: Path, options: DatasetOptions) -> Dataset:
    """One case an array; labels of several columns are 0/1 for each class.

    Raises:
        DatasetError: Where arrays are missing, are no volumes, or do not match in number.
        ScanRefused: Where the archive cannot be read.
    """
    found = shapes(path)
    splits = [s for s in _SPLITS if f"{s}_images" in found]
    if not splits:
        raise DatasetError(f"{path.name}: no arrays train_images, val_images or test_images")
    cases: list[Case] = []
    width = 1
    for split in splits:
        shape = found[f"{split}_images"][0]
        if len(shape) != 4 or shape[-1] in (3, 4):  # the last axis of a colour picture
            raise DatasetError(
                f"{path.name}: {split}_images must be (N, X, Y, Z), got {shape}; situs reads the "
                "3D collections of MedMNIST"
            )
        if found.get(f"{split}_labels", ((0,),))[0][0] != shape[0]:
            raise DatasetError(f"{path.name}: {split}_labels must have {shape[0]} rows")
        labels = np.asarray(read_array(path, f"{split}_labels")).reshape(shape[0], -1)
        width = labels.shape[1]
        for index, row in enumerate(labels.tolist()):
            target: Target = int(row[0]) if width == 1 else tuple(int(v) for v in row)
            name = f"{split}-{index:05d}"
            member = (f"{split}_images", index)
            cases.append(Case(name, (path,), None, target, name, split, member))
    if options.classes and width not in (1, len(options.classes)):
        raise DatasetError(
            f"{path.name}: dataset.classes has {len(options.classes)} names, the labels {width} "
            "columns"
        )
    return Dataset(
        path,
        "medmnist",
        tuple(cases),
        options.classes or _classes(cases, width),
        "classification",
        multilabel=width > 1,
    )


def _classes(cases: list[Case], width: int) -> dict[int, str]:
    if width > 1:
        return {i: str(i) for i in range(width)}
    numbers = sorted({c.target for c in cases if isinstance(c.target, int)})
    return {n: str(n) for n in numbers}
