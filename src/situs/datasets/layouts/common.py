"""What several layouts share: images in a folder, patients, paths that stay inside, classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from situs.datasets.dataset import DatasetError, DatasetOptions
from situs.errors import setting
from situs.files import parse_json
from situs.scans.formats import format_by_name, stem
from situs.scans.names import SUBJECT, patient_in_name
from situs.scans.read import read_label

K = TypeVar("K")
_MODALITIES = {"mri": "MR", "mr": "MR", "ct": "CT", "pet": "PT", "pt": "PT"}


def images_in(folder: Path) -> dict[str, Path]:
    """Image files directly in a folder, by their name without suffix.

    Raises:
        DatasetError: Where two differ in their suffix only.
    """
    files = [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and format_by_name(path) and path.is_file()
    ]
    return each_once(files, stem)


def each_once(files: Iterable[Path], key: Callable[[Path], K]) -> dict[K, Path]:
    """Files by what tells them apart.

    Raises:
        DatasetError: Where two are taken for the same: one would vanish.
    """
    found: dict[K, Path] = {}
    for file in files:
        first = found.setdefault(key(file), file)
        if first is not file:
            raise DatasetError(
                f"{file.parent}: {first.name} and {file.name} would be the same case; rename or "
                "move one, or list the cases in a CSV with a column 'name'"
            )
    return found


def patient_of(name: str, options: DatasetOptions) -> str:
    """The patient that a case's name tells of, else the name itself.

    Raises:
        DatasetError: Where the name has nothing of what ``dataset.patient`` asks for: taking it
            for a patient of its own could part the scans of one.
    """
    found = patient_in_name(options.patient or SUBJECT, name)
    if options.patient and not found:
        raise DatasetError(
            f"{setting('dataset.patient')}: '{options.patient}' is not found in '{name}'"
        )
    return found or name


def inside(root: Path, named: str) -> Path:
    """A path that a dataset's file names, which must stay inside the dataset.

    Raises:
        DatasetError: Where it leads out.
    """
    path = Path(os.path.normpath(root / named))
    # The one may be absolute and the other not.
    if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root)):
        raise DatasetError(
            f"{root.name}: '{named}' leads out of the dataset; move the file into it"
        )
    return path


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DatasetError: Where the file is none.
    """
    try:
        value = parse_json(path.read_bytes())
    except (OSError, ValueError):
        raise DatasetError(f"{path} is not valid JSON") from None
    if not isinstance(value, dict):
        raise DatasetError(f"{path} must hold a JSON object")
    return value


def declared_classes(labels: dict[str, Any], source: Path) -> dict[int, str]:
    """Class number → name, from ``{"1": "name"}`` (Decathlon) or ``{"name": 1}`` (nnU-Net).

    Raises:
        DatasetError: Where a class is a set of numbers (region-based training), or nnU-Net's
            "ignore": trained and scored as a class it would spoil both.
    """
    classes: dict[int, str] = {}
    if not isinstance(labels, dict):
        raise DatasetError(f"{source}: 'labels' must name each class by its number")
    for key, value in labels.items():
        number, name = (key, value) if str(key).isdigit() else (value, key)
        if str(name).lower() == "ignore":
            raise DatasetError(
                f"{source}: situs does not leave out voxels labelled 'ignore'; relabel them, or "
                "set dataset.classes to all numbers with names, if they shall be a class"
            )
        if not str(number).isdigit():
            raise DatasetError(
                f"{source}: class '{name}' must be one number, got {number!r}; situs does not "
                "train on regions"
            )
        classes[int(number)] = str(name)
    return dict(sorted(classes.items()))


def channel_names(channels: Any, source: Path) -> list[str]:
    """Names of the channels in their order, from ``{"0": "CT"}``, ``["CT"]`` or ``"CT"``.

    Raises:
        DatasetError: For anything else.
    """
    names: Any = [channels] if isinstance(channels, str) else channels or []
    if isinstance(names, dict) and all(str(key).isdigit() for key in names):
        names = [names[key] for key in sorted(names, key=int)]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DatasetError(
            f"{source}: 'modality' or 'channel_names' must name each channel by its number, as in "
            f'{{"0": "CT"}}, got {channels!r}'
        )
    return list(names)


def modalities_of(channels: Iterable[str]) -> tuple[str | None, ...]:
    """The modality of each channel, None where its name states none; empty where no name does."""
    found = tuple(_MODALITIES.get(name.lower()) for name in channels)
    return found if any(found) else ()


def found_classes(labels: list[Path]) -> dict[int, str]:
    """The classes that occur in label maps, named by their numbers."""
    numbers = {0}
    for path in labels:
        numbers.update(np.unique(read_label(path).array).tolist())
    return {n: "background" if n == 0 else str(n) for n in sorted(numbers)}
