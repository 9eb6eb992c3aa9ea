"""DICOM: a folder, or a file that holds a whole volume, to one :class:`Scan`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from situs.errors import ScanRefused
from situs.geometry.frames import turn_affine_lps_ras
from situs.scans import quality
from situs.scans.formats import format_by_name
from situs.scans.names import walk
from situs.scans.readers.dicom_headers import Series, Slice, read_header
from situs.scans.readers.dicom_pixels import Pixels, straighten, which_file
from situs.scans.readers.dicom_stack import (
    directions,
    same_grid,
    stack,
    straightened_affine,
)
from situs.scans.readers.dicom_volumes import arrange
from situs.scans.readers.options import ReadOptions, chosen_volumes
from situs.scans.refusals import refuse
from situs.scans.scan import Provenance, Scan

_FEW_SLICES = 8  # of a localizer in one plane


def read(path: Path, options: ReadOptions) -> Scan:
    """Read one DICOM folder or file; see :func:`situs.scans.read.read_scan`."""
    return read_files(files_below(path), path, options)


def read_files(files: Sequence[Path], path: Path, options: ReadOptions) -> Scan:
    """Read one series from ``files``.

    Args:
        files: Candidates; objects without an image are passed over.
        path: What the user named, for errors.
        options: See :func:`situs.scans.read.read_scan`.

    Raises:
        ScanRefused: Where they hold no series, several, or one that is no regular volume.
    """
    series, slices, notes = _one_series(files, path, options)
    localizer = _is_localizer(series, slices)
    if localizer and not options.planes:
        raise refuse("localizer", path)
    rows, columns = slices[0].shape
    bytes_each = max(4, slices[0].bits // 8)
    quality.check_size(rows * columns * len(slices), bytes_each, None, path, options.max_bytes)
    pixels = Pixels(path, files)
    row, column = directions(slices, path)
    arranged = arrange(slices, np.cross(row, column), path, pixels.fingerprint)
    count, told_by = len(arranged.volumes), ", ".join(arranged.told_by)
    chosen = chosen_volumes(count, options.volume, path, told_by)
    for v in chosen:
        _check_space(arranged.volumes[v], path)
    shape = (columns, rows, len(arranged.volumes[chosen[0]]))
    quality.check_shape(shape, path, planes=options.planes)
    stacks = [stack(arranged.volumes[v], row, column, path) for v in chosen]
    if not all(same_grid(stacks[0], other) for other in stacks[1:]):
        detail = f"holds {count} volumes on grids of their own (told apart by {told_by})"
        raise refuse("four-dimensional", path, detail)
    notes += [*arranged.notes, *_assumptions(slices), *stacks[0].notes]
    if series.nameless:
        notes.append("PatientID is a placeholder: the study stands for the patient")
    if not _in_order(stacks[0].slices, slices):
        notes.append(f"sorted {len(stacks[0].slices)} slices by position")
    volumes = [pixels.volume(s.slices, series.modality) for s in stacks]
    affine = stacks[0].affine_lps
    if any(stacks[0].tilt):
        moved = [straighten(volume, stacks[0].tilt) for volume in volumes]
        volumes = [volume for volume, _ in moved]
        affine = straightened_affine(stacks[0], moved[0][1])
    quality.check_affine(affine, path)
    provenance = Provenance(
        format="dicom",
        series=series.uid,
        study=series.study,
        patient=series.patient,
        description=_description(series, localizer),
        notes=tuple(notes),
        burned_in=series.burned_in,
    )
    array = volumes[0][None] if len(volumes) == 1 else np.stack(volumes)  # no copy of a single one
    return Scan(array, turn_affine_lps_ras(affine), series.modality, provenance)


def files_below(path: Path) -> list[Path]:
    """Every regular file below a folder, in a stable order; links to folders are followed."""
    if not path.is_dir():
        return [path]
    return [
        folder / name
        for folder, names in walk(path)
        for name in names
        if not name.startswith(".") and name.upper() != "DICOMDIR" and (folder / name).is_file()
    ]


@dataclass
class _Group:
    """What the files of one series gave."""

    series: Series
    slices: list[Slice] = field(default_factory=list)
    scouts: list[Slice] = field(default_factory=list)
    refused: list[tuple[ScanRefused, str]] = field(default_factory=list)
    burned_in: bool = False  # in any slice
    owners: list[Series] = field(default_factory=list)  # of the slices, a file each


def _one_series(
    files: Sequence[Path], path: Path, options: ReadOptions
) -> tuple[Series, list[Slice], list[str]]:
    groups: dict[str, _Group] = {}
    unknown: list[ScanRefused] = []  # of which series they are cannot be known
    others: list[ScanRefused] = []
    for file in files:
        header = read_header(file)
        if header.series is None:
            if header.refusal is not None:
                image = header.refusal.reason != "not-an-image"
                (unknown if image else others).append(header.refusal)
            continue
        group = groups.setdefault(header.series.uid, _Group(header.series))
        group.burned_in |= header.series.burned_in
        if header.refusal is not None:
            group.refused.append((header.refusal, header.kind))
        elif header.series.localizer:
            group.scouts.extend(header.slices)
        else:
            group.series = header.series
            group.slices.extend(header.slices)
            group.owners.append(header.series)
    notes = _without_scouts(groups)
    if len(others) == len(files) == 1:
        raise others[0]
    chosen = _chosen(groups, unknown, files, path, options)
    if others:
        notes.append(f"passed over {len(others)} files without an image")
    notes += _check_beside(chosen, unknown, files, path, options)
    _check_owners(chosen.owners, path)
    notes += _passed_over([g for g in groups.values() if g is not chosen])
    return replace(chosen.series, burned_in=chosen.burned_in), chosen.slices, notes


def _chosen(
    groups: dict[str, _Group],
    unknown: Sequence[ScanRefused],
    files: Sequence[Path],
    path: Path,
    options: ReadOptions,
) -> _Group:
    """The series asked for, or the one image series.

    Raises:
        ScanRefused: Where there is none, or there are several.
    """
    found = {uid: group for uid, group in groups.items() if group.slices}
    if options.series is not None:
        found = {uid: group for uid, group in found.items() if uid == options.series}
    elif len(found) > 1:
        # A localizer beside scans is not what is meant.
        scans = {u: g for u, g in found.items() if not _is_localizer(g.series, g.slices)}
        found = scans or found
    if len(found) > 1:
        shown = ", ".join(_described(group) for _, group in sorted(found.items())[:8])
        raise refuse("several-series", path, f"{len(found)} series: {shown}")
    if found:
        return next(iter(found.values()))
    refused = [error for group in groups.values() for error, _ in group.refused] + [*unknown]
    if options.series is not None:
        refused = [e for e, _ in groups[options.series].refused] if options.series in groups else []
    if refused:
        raise refuse(refused[0].reason, path, _counted(refused, files))
    raise refuse("not-an-image", path, _nothing_here(files))


def _check_beside(
    chosen: _Group,
    unknown: Sequence[ScanRefused],
    files: Sequence[Path],
    path: Path,
    options: ReadOptions,
) -> list[str]:
    """Notes on files of the series that are no slices of it.

    Raises:
        ScanRefused: Where a slice is damaged: such a stack must not pass as whole.
    """
    usual = Counter(s.kind for s in chosen.slices).most_common(1)[0][0]
    captures = [e for e, kind in chosen.refused if _is_other_kind(e, kind, usual)]
    damaged = [e for e, kind in chosen.refused if not _is_other_kind(e, kind, usual)]
    if damaged or (unknown and options.series is None):
        refused = [*damaged, *unknown]
        raise refuse(refused[0].reason, path, _counted(refused, files))
    notes = []
    if captures:
        notes.append(f"passed over {len(captures)} pictures in the series that are no slices of it")
    if unknown:
        notes.append(f"{len(unknown)} unusable files beside it; the stack may be incomplete")
    return notes


def _check_owners(owners: Sequence[Series], path: Path) -> None:
    """Refuse what some anonymisers make: one series identifier for all patients or studies.

    Raises:
        ScanRefused: ``mixed-patients``.
    """
    visits = {owner.visit for owner in owners} - {""}
    patients = {owner.patient for owner in owners} - {""}
    if len(visits) > 1 or len(patients) > 1:
        several = f"{len(patients)} patients" if len(patients) > 1 else f"{len(visits)} studies"
        raise refuse("mixed-patients", path, f"slices of {several} share a series identifier")


def _check_space(slices: Sequence[Slice], path: Path) -> None:
    """Refuse a volume whose parts lie in different frames of reference.

    Positions mean nothing across frames. Where each slice has a frame of its own, they were made
    up when the files were anonymised.

    Raises:
        ScanRefused: ``mixed-frames``.
    """
    spaces = {s.space for s in slices} - {""}
    if 1 < len(spaces) < len(slices):
        raise refuse("mixed-frames", path, f"slices lie in {len(spaces)} frames of reference")


def _is_other_kind(error: ScanRefused, kind: str, usual: str) -> bool:
    """Whether a refused object of a series is a picture or a derived object, not a slice."""
    return error.reason in ("colour-image", "unsupported-dicom") or (
        error.reason == "no-geometry" and kind != usual
    )


def _passed_over(groups: Sequence[_Group]) -> list[str]:
    counts: Counter[str] = Counter()
    for group in groups:
        counts.update(error.reason for error, _ in group.refused)
        if group.slices:
            kind = "localizer" if _is_localizer(group.series, group.slices) else "other series"
            counts[kind] += len(group.slices)
    counts.pop("other series", None)  # the caller named the one that is wanted
    if not counts:
        return []
    words = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    return [f"passed over files of other series ({words})"]


def _without_scouts(groups: dict[str, _Group]) -> list[str]:
    """Leave localizers out of series that hold other slices; keep series of nothing else."""
    beside = 0
    for group in groups.values():
        if group.slices:
            beside += len(group.scouts)
        else:
            group.slices = group.scouts
    return [f"left out {beside} localizer slices"] if beside else []


def _is_localizer(series: Series, slices: Sequence[Slice]) -> bool:
    """Whether ImageType says so, or the description does and the geometry agrees."""
    if series.localizer:
        return True
    if not series.called_localizer:
        return False
    first = slices[0]
    turned = any(np.dot(s.row, first.row) * np.dot(s.column, first.column) < 0.9 for s in slices)
    return turned or len(slices) < _FEW_SLICES


def _description(series: Series, localizer: bool) -> str:
    words = [word for word in series.description.split() if word != "localizer"]
    return " ".join([*words, "localizer"] if localizer else words)


def _in_order(stacked: Sequence[Slice], slices: Sequence[Slice]) -> bool:
    place = {id(s): k for k, s in enumerate(slices)}
    found = [place[id(s)] for s in stacked]
    return found == sorted(found)


def _assumptions(slices: Sequence[Slice]) -> list[str]:
    missing = {name: sum(name in s.assumed for s in slices) for s in slices for name in s.assumed}
    return [f"{name} is missing in {count} slices: default" for name, count in missing.items()]


def _described(group: _Group) -> str:
    words = f" ({group.series.description})" if group.series.description else ""
    return f"{group.series.uid}{words}"


def _counted(refused: Sequence[ScanRefused], files: Sequence[Path]) -> str:
    # By number, not by name: details stand on pages that are passed on.
    which = f" ({which_file(refused[0].path, files)})" if len(refused) == 1 < len(files) else ""
    return f"{len(refused)} of {len(files)} files{which}: {refused[0].detail}"


def _nothing_here(files: Sequence[Path]) -> str:
    others = sum(format_by_name(file) not in ("dicom", None) for file in files)
    if others:
        return f"no DICOM image here, but {others} other scans: name one"
    return f"none of {len(files)} files is an image" if files else "the folder holds no file"
