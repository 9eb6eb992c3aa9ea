"""Two folders side by side, one of images and one of label maps with the same names."""

from __future__ import annotations

import re
from pathlib import Path

from situs.datasets.dataset import (
    Case,
    Dataset,
    DatasetError,
    DatasetOptions,
    missing_pair,
    without_label,
)
from situs.datasets.layouts.common import each_once, found_classes, images_in, patient_of
from situs.scans.formats import stem

_PAIRS = (
    ("images", "labels"),
    ("imagesTr", "labelsTr"),
    ("image", "label"),
    ("images", "masks"),
    ("images", "segmentations"),
    ("img", "mask"),
)
_ENDINGS = re.compile(r"[_\-.](image|img|scan|label|labels|seg|segmentation|mask|gt)$", re.I)


def fits(path: Path) -> bool:
    """Whether the folder has a folder of images and one of labels."""
    return _folders(path) is not None


def open_layout(path: Path, options: DatasetOptions) -> Dataset:
    """Pair images and labels by name; ``_image``, ``_seg`` and the like at the end are ignored.

    Raises:
        DatasetError: Where a pair is missing, or two images would be one case.
    """
    folders = _folders(path)
    if folders is None:
        raise DatasetError(f"{path} has no folders images/ and labels/")
    images, labels = (each_once(images_in(f).values(), _key) for f in folders)
    if labels.keys() - images.keys():
        alone = sorted(labels.keys() - images.keys())
        raise missing_pair(path, "labels without an image", alone, "Add the images.")
    bare = sorted(images.keys() - labels.keys())
    if bare and not options.allow_unlabelled:
        raise without_label(path, "images without a label", bare)
    cases = tuple(
        Case(name, (image,), labels.get(name), group=patient_of(name, options))
        for name, image in images.items()
    )
    classes = options.classes or found_classes(list(labels.values()))
    return Dataset(path, "folders", cases, classes, "segmentation")


def _folders(path: Path) -> tuple[Path, Path] | None:
    for images, labels in _PAIRS:
        if (path / images).is_dir() and (path / labels).is_dir():
            return path / images, path / labels
    return None


def _key(path: Path) -> str:
    return _ENDINGS.sub("", stem(path))
