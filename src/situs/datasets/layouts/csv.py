"""A CSV of labels: column ``image``, and ``label`` (a map), ``target`` (a class) or 0/1 columns.

Optional columns: ``name``, ``patient`` (hashed), ``split``. Paths are relative to the CSV. What is
empty, NaN, NA or None is missing, unless ``dataset.classes`` has a class of that name.
"""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path

from situs.datasets.dataset import (
    Case,
    Dataset,
    DatasetError,
    DatasetOptions,
    Target,
    missing_pair,
    without_label,
)
from situs.datasets.layouts.common import found_classes, inside, patient_of
from situs.scans.formats import stem
from situs.scans.privacy import digest_patient

_KNOWN = ("image", "label", "target", "name", "patient", "split")
# As pandas writes and reads them; "none" may well be a class.
_MISSING = ("", "nan", "NaN", "NA", "N/A", "n/a", "<NA>", "None", "null", "NULL")
_SPLITS = ("", "train", "val", "test")


def fits(path: Path) -> bool:
    """Whether this is a CSV file."""
    return path.suffix.lower() == ".csv"


def open_layout(path: Path, options: DatasetOptions) -> Dataset:
    """One case a row.

    Raises:
        DatasetError: Where a column, a value or a file is missing, or a class is not declared.
    """
    rows, columns = _rows(path)
    extra = [c for c in columns if c not in _KNOWN]
    images = [inside(path.parent, row["image"]) for row in rows]
    labels = [inside(path.parent, row["label"]) if row.get("label") else None for row in rows]
    absent = [p.name for p in (*images, *labels) if p is not None and not p.exists()]
    if absent:
        raise missing_pair(path, "files named in the table are absent", absent, "Add them.")
    if "label" in columns:
        return _segmentation(path, rows, images, labels, options)
    if "target" in columns:
        declared = (options.classes or {}).values()
        given = [_target(row, declared, path) for row in rows]
        names = options.classes or _names(given)
        numbers = {name: number for number, name in names.items()}
        targets: list[Target | None] = [
            _class(row, target, numbers, path) for row, target in zip(rows, given, strict=True)
        ]
    elif extra:
        names, wanted = _findings(extra, options.classes, path)
        targets = [_flags(row, wanted, path) for row in rows]
    else:
        raise DatasetError(f"{path.name}: needs a column 'label', 'target', or one a class")
    bare = [i.name for i, target in zip(images, targets, strict=True) if target is None]
    if bare and not options.allow_unlabelled:
        what = "rows without a class (empty, NaN, NA or None, where no class is named so)"
        raise without_label(path, what, bare)
    cases = [
        _case(row, image, None, target, options)
        for row, image, target in zip(rows, images, targets, strict=True)
    ]
    multilabel = "target" not in columns
    return Dataset(path, "csv", tuple(cases), names, "classification", multilabel=multilabel)


def _segmentation(
    path: Path,
    rows: list[dict[str, str]],
    images: list[Path],
    labels: list[Path | None],
    options: DatasetOptions,
) -> Dataset:
    bare = [i.name for i, label in zip(images, labels, strict=True) if label is None]
    if bare and not options.allow_unlabelled:
        raise without_label(path, "rows without a label", bare)
    cases = tuple(
        _case(row, image, label, None, options)
        for row, image, label in zip(rows, images, labels, strict=True)
    )
    classes = options.classes or found_classes([p for p in labels if p is not None])
    return Dataset(path, "csv", cases, classes, "segmentation")


def _rows(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            # Spreadsheets of half the world write ';', for ',' stands in their numbers.
            header = file.readline()
            file.seek(0)
            separator = max(",;\t", key=header.count)
            reader = csv.DictReader(file, delimiter=separator)
            columns = [c.strip() for c in reader.fieldnames or ()]
            columns = [c.lower() if c.lower() in _KNOWN else c for c in columns]
            reader.fieldnames = columns
            rows = [{k: (v or "").strip() for k, v in row.items() if k} for row in reader]
    except UnicodeDecodeError:
        raise DatasetError(f"{path.name} is not UTF-8 text; save it as 'CSV UTF-8'") from None
    except csv.Error as error:
        raise DatasetError(f"{path.name} cannot be read as CSV: {error}") from None
    if "image" not in columns:
        got = ", ".join(columns) or "an empty file"
        raise DatasetError(f"{path.name}: its first line must name a column 'image', got {got}")
    for number, row in enumerate(rows, 2):
        if not row["image"]:
            raise DatasetError(f"{path.name}, line {number}: 'image' is empty")
        if row.get("split", "") not in _SPLITS:
            raise DatasetError(f"{path.name}, line {number}: split must be train, val or test")
    return rows, columns


def _names(targets: list[str]) -> dict[int, str]:
    """Classes in the order of their numbers where all are numbers, else of their names."""
    found = sorted({t for t in targets if t})
    if all(t.isdigit() for t in found):
        return {int(t): t for t in sorted(found, key=int)}
    return dict(enumerate(found))


def _target(row: dict[str, str], declared: Collection[str], path: Path) -> str:
    """The class as text, empty where it is missing; ``1.0``, as pandas writes it, is 1.

    Raises:
        DatasetError: For a number that is not whole: an age or a score is no class.
    """
    target = row["target"]
    if target in declared or target.isdigit():
        return target
    if target in _MISSING:
        return ""
    try:
        number = float(target)
    except ValueError:
        return target
    if not number.is_integer():
        raise DatasetError(
            f"{path.name}: {row['image']}: target '{target}' is no class but a quantity, which "
            "situs does not learn; group the values into classes"
        )
    return str(int(number))


def _class(row: dict[str, str], target: str, numbers: dict[str, int], path: Path) -> int | None:
    if not target:
        return None
    if target in numbers:
        return numbers[target]
    if target.isdigit() and int(target) in numbers.values():
        return int(target)
    known = ", ".join(numbers)
    raise DatasetError(f"{path.name}: {row['image']}: unknown class '{target}'; known: {known}")


def _findings(
    columns: list[str], declared: dict[int, str] | None, path: Path
) -> tuple[dict[int, str], list[str]]:
    """Classes of several a scan, and the column of each, in the order of the classes' numbers.

    Declared names that are all columns choose and order these; others rename all columns.
    """
    if declared is None:
        return dict(enumerate(columns)), columns
    classes = dict(sorted(declared.items()))
    if set(classes.values()) <= set(columns):
        return classes, list(classes.values())
    if len(classes) != len(columns) or set(classes.values()) & set(columns):
        raise DatasetError(
            f"{path.name}: dataset.classes names {list(classes.values())}, but the columns of "
            f"classes are {columns}; name columns to choose them, or give every one a new name"
        )
    return classes, columns


def _flags(row: dict[str, str], columns: list[str], path: Path) -> tuple[int, ...] | None:
    if all(row[column] in _MISSING for column in columns):
        return None
    for column in columns:
        if row[column] not in ("0", "1"):
            raise DatasetError(
                f"{path.name}: {row['image']}: column '{column}' must be 0 or 1, "
                f"got '{row[column]}'"
            )
    return tuple(int(row[column]) for column in columns)


def _case(
    row: dict[str, str],
    image: Path,
    label: Path | None,
    target: Target | None,
    options: DatasetOptions,
) -> Case:
    name = row.get("name") or stem(image)
    group = digest_patient(row["patient"]) if row.get("patient") else patient_of(name, options)
    return Case(name, (image,), label, target, group, row.get("split", ""))
