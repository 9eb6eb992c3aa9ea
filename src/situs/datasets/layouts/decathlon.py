"""Medical Segmentation Decathlon: ``dataset.json`` lists images and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from situs.datasets.dataset import (
    Case,
    Dataset,
    DatasetError,
    DatasetOptions,
    missing_pair,
    without_label,
)
from situs.datasets.layouts.common import (
    channel_names,
    declared_classes,
    inside,
    modalities_of,
    patient_of,
    read_json,
)
from situs.scans.formats import stem


def fits(path: Path) -> bool:
    """Whether the folder has a ``dataset.json`` with a list of training pairs."""
    description = path / "dataset.json"
    return description.is_file() and isinstance(read_json(description).get("training"), list)


def open_layout(path: Path, options: DatasetOptions) -> Dataset:
    """Cases in the order of the file; those under "test" have no label.

    Raises:
        DatasetError: Where a listed file is absent or leads out of the dataset, or a case that
            should have a label map has none.
    """
    description = read_json(path / "dataset.json")
    cases = [_case(path, item, "train", options) for item in description.get("training") or []]
    cases += [_case(path, item, "val", options) for item in description.get("validation") or []]
    cases += [_case(path, item, "test", options) for item in description.get("test") or []]
    bare = [case.name for case in cases if case.label is None and case.split != "test"]
    if bare and not options.allow_unlabelled:
        raise without_label(path, "training or validation cases without a 'label'", bare)
    files = [p for c in cases for p in (*c.image, c.label) if p is not None]
    absent = [p.name for p in files if not p.is_file()]
    if absent:
        remedy = "Add them, or take them out of dataset.json."
        raise missing_pair(path, "files listed in dataset.json are absent", absent, remedy)
    classes = options.classes or declared_classes(
        description.get("labels") or {}, path / "dataset.json"
    )
    if not classes:
        raise DatasetError(f"{path / 'dataset.json'}: 'labels' must name the classes")
    modalities = modalities_of(channel_names(description.get("modality"), path / "dataset.json"))
    return Dataset(path, "decathlon", tuple(cases), classes, "segmentation", modalities)


def _case(root: Path, item: Any, split: str, options: DatasetOptions) -> Case:
    if isinstance(item, str):
        item = {"image": item}
    given = item.get("image") if isinstance(item, dict) else None
    channels = [given] if isinstance(given, str) else given
    if not isinstance(channels, list) or not channels or not all(map(_is_path, channels)):
        raise DatasetError(
            f"{root.name}/dataset.json: a case must have an 'image', the path of a file or a list "
            f"with one for each channel, got {item!r}"
        )
    images = tuple(inside(root, channel) for channel in channels)
    name = stem(images[0])
    label = _label(root, name, item.get("label"))
    return Case(name, images, label, group=patient_of(name, options), split=split)


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _label(root: Path, name: str, label: Any) -> Path | None:
    if isinstance(label, list) and len(label) == 1:
        (label,) = label
    if label is None or label == "":
        return None
    if not isinstance(label, str):
        raise DatasetError(
            f"{root.name}/dataset.json: the 'label' of {name} must be the path of one label map, "
            f"got {label!r}; list classes of whole scans in a CSV with columns 'image' and 'target'"
        )
    return inside(root, label)
