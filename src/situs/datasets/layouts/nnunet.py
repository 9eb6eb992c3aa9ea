"""nnU-Net raw folders: ``imagesTr/case_0000.nii.gz`` (a file a channel), ``labelsTr/case.nii.gz``.

Versions 1 and 2 differ in ``dataset.json`` only: ``modality`` and number → name, against
``channel_names`` and name → number.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

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
    images_in,
    inside,
    modalities_of,
    patient_of,
    read_json,
)
from situs.scans.names import channel_of


def fits(path: Path) -> bool:
    """Whether the folder has ``dataset.json`` and images numbered by channel."""
    folder = path / "imagesTr"
    if not (path / "dataset.json").is_file() or not folder.is_dir():
        return False
    # Decathlon lists files as they are; nnU-Net 1 leaves the channel out of their names.
    listed = read_json(path / "dataset.json").get("training")
    first = listed[0] if isinstance(listed, list) and listed else ""
    image = first.get("image") if isinstance(first, dict) else first
    image = image[0] if isinstance(image, list) and image else image
    if isinstance(image, str) and image and inside(path, image).is_file():
        return False
    return any(channel_of(name) for name in images_in(folder))


def open_layout(path: Path, options: DatasetOptions) -> Dataset:
    """Training cases with labels; ``imagesTs`` with those of ``labelsTs``, where there are any.

    Raises:
        DatasetError: Where a label, an image or a channel is missing.
    """
    description = read_json(path / "dataset.json")
    channels = channel_names(
        description.get("channel_names") or description.get("modality"), path / "dataset.json"
    )
    cases = _cases(path, "Tr", "train", len(channels), options)
    if (path / "imagesTs").is_dir():
        cases += _cases(path, "Ts", "test", len(channels), options)
    classes = options.classes or declared_classes(
        description.get("labels") or {}, path / "dataset.json"
    )
    if not classes:
        raise DatasetError(f"{path / 'dataset.json'}: 'labels' must name the classes")
    return Dataset(path, "nnunet", tuple(cases), classes, "segmentation", modalities_of(channels))


def _cases(root: Path, part: str, split: str, channels: int, options: DatasetOptions) -> list[Case]:
    files: dict[str, dict[int, Path]] = defaultdict(dict)
    for name, image in images_in(root / f"images{part}").items():
        found = channel_of(name)
        if found is not None:
            files[found[0]][found[1]] = image
    labels_folder = root / f"labels{part}"
    labels = images_in(labels_folder) if labels_folder.is_dir() else {}
    wanted = set(range(channels)) or {0}
    partial = [name for name, own in files.items() if set(own) != wanted]
    if partial:
        remedy = f"Each case needs channels {sorted(wanted)} as in dataset.json."
        raise missing_pair(root, "cases lack a channel", partial, remedy)
    alone = sorted(labels.keys() - files.keys())
    if alone:
        raise missing_pair(root, "labels without an image", alone, "Add the images.")
    bare = sorted(files.keys() - labels.keys())
    if bare and split == "train" and not options.allow_unlabelled:
        raise without_label(root, "images without a label", bare)
    return [
        Case(
            name,
            tuple(own[c] for c in sorted(own)),
            labels.get(name),
            group=patient_of(name, options),
            split=split,
        )
        for name, own in files.items()
    ]
