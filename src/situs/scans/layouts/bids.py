"""BIDS: ``sub-*/[ses-*/]<type>/*_<suffix>.nii.gz``, label maps below ``derivatives/``.

A label map is a derivative of suffix ``dseg`` (or ``seg``, ``mask``) with the entities of its
image (BIDS derivatives, "segmentations"); its classes are named in a ``dseg.tsv`` beside it or
at the top of the derivative.
"""

from __future__ import annotations

import csv
from pathlib import Path

from situs.scans.datasets import (
    Case,
    Dataset,
    DatasetError,
    DatasetOptions,
    missing_pair,
    without_label,
)
from situs.scans.layouts.common import each_once, found_classes, patient_of, stem

_LABELS = ("dseg", "seg", "mask")
_IGNORED_ENTITIES = ("desc", "label", "space", "res", "den")


def fits(path: Path) -> bool:
    """Whether the folder has BIDS's description file."""
    return (path / "dataset_description.json").is_file()


def open_layout(path: Path, options: DatasetOptions) -> Dataset:
    """Images of one suffix and the label maps of the same subject, session and entities.

    Raises:
        DatasetError: Where the suffix is ambiguous or absent, a pair is missing, or two files
            differ in entities of processing only.
    """
    suffix = _suffix(path, options)
    files = [
        image
        for image in sorted(path.glob(f"sub-*/**/*_{suffix}.nii*"))
        if not image.name.startswith(".")
    ]
    images = each_once(files, _entities)
    labels = _labels(path, images)
    bare = sorted(stem(images[key]) for key in images.keys() - labels.keys())
    if bare and not options.allow_unlabelled:
        raise without_label(path, "images without a label below derivatives/", bare)
    cases = tuple(
        Case(stem(image), (image,), labels.get(key), group=patient_of(image.name, options))
        for key, image in images.items()
    )
    classes = options.classes or _classes(path) or found_classes(list(labels.values()))
    return Dataset(path, "bids", cases, classes, "segmentation")


def _suffix(path: Path, options: DatasetOptions) -> str:
    found = {stem(p).rsplit("_", 1)[-1] for p in path.glob("sub-*/**/*.nii*")}
    if options.suffix is not None:
        if options.suffix not in found:
            known = ", ".join(sorted(found)) or "none"
            raise DatasetError(
                f"{path.name}: no image has suffix '{options.suffix}'; found {known}"
            )
        return options.suffix
    if not found:
        raise DatasetError(f"{path.name}: no images below sub-*")
    if len(found) > 1 and "T1w" not in found:
        raise DatasetError(f"{path.name}: set dataset.suffix to one of {', '.join(sorted(found))}")
    return "T1w" if "T1w" in found else found.pop()


def _labels(path: Path, images: dict[frozenset[str], Path]) -> dict[frozenset[str], Path]:
    files = [
        p
        for p in sorted(path.glob("derivatives/**/sub-*.nii*"))
        if stem(p).rsplit("_", 1)[-1] in _LABELS
    ]
    labels = each_once(files, _entities)
    alone = [labels[key].name for key in labels.keys() - images.keys()]
    if alone:
        raise missing_pair(path, "labels without an image", alone, "Add the images.")
    return labels


def _entities(path: Path) -> frozenset[str]:
    """What says which recording this is: all entities except those of processing."""
    parts = stem(path).split("_")[:-1]
    return frozenset(p for p in parts if p.split("-", 1)[0] not in _IGNORED_ENTITIES)


def _classes(path: Path) -> dict[int, str]:
    tables = sorted(path.glob("derivatives/**/*dseg.tsv"))
    classes: dict[int, str] = {}
    for table in tables:
        with table.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                index, name = row.get("index") or "", row.get("name") or ""
                if not index.isdigit() or classes.get(int(index), name) != name:
                    raise DatasetError(f"{table.name}: index '{index}' is no number or named twice")
                classes[int(index)] = name
    return dict(sorted({0: "background", **classes}.items())) if classes else {}
