"""BIDS: ``sub-*/[ses-*/]<type>/*_<suffix>.nii.gz``, label maps below ``derivatives/``.

A label map is a derivative of suffix ``dseg`` (or ``seg``, ``mask``) with the entities of its
image (BIDS derivatives, "segmentations"); its classes are named in a ``dseg.tsv`` beside it or
at the top of the derivative. Where an image has several, ``dataset.label`` says which; a mask of
the brain is a label only if that asks for it, since any preprocessing leaves one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from situs.datasets.dataset import (
    Case,
    Dataset,
    DatasetError,
    DatasetOptions,
    missing_pair,
    without_label,
)
from situs.datasets.layouts.common import each_once, found_classes, patient_of
from situs.scans.formats import stem

_LABELS = ("dseg", "seg", "mask")
_BRAIN_MASK = {"desc-brain", "mask"}
_IGNORED_ENTITIES = ("desc", "label", "space", "res", "den")


def fits(path: Path) -> bool:
    """Whether the folder has BIDS's description file."""
    return (path / "dataset_description.json").is_file()


def open_layout(path: Path, options: DatasetOptions) -> Dataset:
    """Images of one suffix and the label maps of the same subject, session and entities.

    Raises:
        DatasetError: Where the suffix or the label is ambiguous or absent, a pair is missing, or
            two images differ in entities of processing only.
    """
    suffix = _suffix(path, options)
    files = [
        image
        for image in sorted(path.glob(f"sub-*/**/*_{suffix}.nii*"))
        if not image.name.startswith(".")
    ]
    images = each_once(files, _entities)
    labels = _labels(path, images, options.label)
    bare = sorted(stem(images[key]) for key in images.keys() - labels.keys())
    if bare and not options.allow_unlabelled:
        what = "images without a label below derivatives/"
        if options.label is None:
            what += " (a brain mask is one only with dataset.label=desc-brain_mask)"
        raise without_label(path, what, bare)
    cases = tuple(
        Case(stem(image), (image,), labels.get(key), group=patient_of(image.name, options))
        for key, image in images.items()
    )
    classes = (
        options.classes or _classes(path, labels.values()) or found_classes(list(labels.values()))
    )
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


def _labels(
    path: Path, images: dict[frozenset[str], Path], label: str | None
) -> dict[frozenset[str], Path]:
    files = [
        p
        for p in sorted(path.glob("derivatives/**/sub-*.nii*"))
        if stem(p).rsplit("_", 1)[-1] in _LABELS
    ]
    chosen = [p for p in files if _fits(p, label)]
    if label and not chosen:
        known = ", ".join(sorted({_kind(p) for p in files})) or "none"
        raise DatasetError(f"{path.name}: no label map has '{label}' in its name; found {known}")
    several: dict[frozenset[str], list[Path]] = {}
    for file in chosen:
        several.setdefault(_entities(file), []).append(file)
    labels = {key: _one(group, label) for key, group in several.items()}
    alone = [labels[key].name for key in labels.keys() - images.keys()]
    if alone:
        raise missing_pair(path, "labels without an image", alone, "Add the images.")
    return labels


def _fits(path: Path, label: str | None) -> bool:
    parts = set(stem(path).split("_"))
    return set(label.split("_")) <= parts if label else not parts >= _BRAIN_MASK


def _one(files: list[Path], label: str | None) -> Path:
    """The one label map of an image; the one that is called exactly as asked, if several fit."""
    exact = [f for f in files if _kind(f) == label]
    if len(files) > 1 and len(exact) != 1:
        kinds = sorted({_kind(f) for f in files})
        if len(kinds) < len(files):
            both = " and ".join(str(f) for f in files[:2])
            raise DatasetError(f"{both} would be labels of the same image; move one away")
        raise DatasetError(
            f"{files[0].name} and {files[1].name} would be labels of the same image; set "
            f"dataset.label to one of {', '.join(kinds)}"
        )
    return exact[0] if exact else files[0]


def _kind(path: Path) -> str:
    """What tells label maps of one image apart: entities of processing, and the suffix."""
    *entities, suffix = stem(path).split("_")
    return "_".join([e for e in entities if e.split("-", 1)[0] in _IGNORED_ENTITIES] + [suffix])


def _entities(path: Path) -> frozenset[str]:
    """What says which recording this is: all entities except those of processing."""
    parts = stem(path).split("_")[:-1]
    return frozenset(p for p in parts if p.split("-", 1)[0] not in _IGNORED_ENTITIES)


def _classes(path: Path, labels: Iterable[Path]) -> dict[int, str]:
    kinds = {_kind(label) for label in labels}
    found = {t: _kind(t.with_suffix("")) for t in sorted(path.glob("derivatives/**/*dseg.tsv"))}
    # A table called as the labels are says more than one of all segmentations.
    tables = [t for t, kind in found.items() if kind in kinds]
    if not tables and any(kind.endswith("dseg") for kind in kinds):
        tables = [t for t, kind in found.items() if kind == "dseg"]
    classes: dict[int, str] = {}
    for table in tables:
        for row in _rows(table):
            index, name = row.get("index") or "", row.get("name") or ""
            if not index.isdigit() or classes.get(int(index), name) != name:
                raise DatasetError(f"{table.name}: index '{index}' is no number or named twice")
            classes[int(index)] = name
    return dict(sorted({0: "background", **classes}.items())) if classes else {}


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, delimiter="\t"))
    except UnicodeDecodeError:
        raise DatasetError(f"{table.name} is not UTF-8 text") from None
    except csv.Error as error:
        raise DatasetError(f"{table.name} cannot be read as a table: {error}") from None
