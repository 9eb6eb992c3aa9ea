"""DICOM: a folder, or a file that holds a whole volume, to one :class:`Scan`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from situs.errors import ScanRefused
from situs.scans import quality
from situs.scans.formats import format_by_name
from situs.scans.readers.dicom_headers import Series, Slice, read_slices
from situs.scans.readers.dicom_pixels import Pixels, straighten
from situs.scans.readers.dicom_stack import stack, straightened_affine
from situs.scans.readers.options import ReadOptions
from situs.scans.refusals import refuse
from situs.scans.scan import Provenance, Scan

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


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
    if series.localizer and not options.planes:
        raise refuse("localizer", path)
    rows, columns = slices[0].shape
    bytes_each = max(4, slices[0].bits // 8)
    quality.check_size(rows * columns * len(slices), bytes_each, None, path, options.max_bytes)
    pixels = Pixels(path)
    stacked = stack(slices, path, volume=options.volume, fingerprint=pixels.fingerprint)
    shape = (columns, rows, len(stacked.volumes[0]))
    quality.check_shape(shape, path, planes=options.planes)
    volumes = [pixels.volume(volume) for volume in stacked.volumes]
    affine = stacked.affine_lps
    if any(stacked.tilt):
        moved = [straighten(volume, stacked.tilt) for volume in volumes]
        volumes = [volume for volume, _ in moved]
        affine = straightened_affine(stacked, moved[0][1])
    quality.check_affine(affine, path)
    provenance = Provenance(
        format="dicom",
        series=series.uid,
        study=series.study,
        patient=series.patient,
        description=series.description,
        notes=(*notes, *stacked.notes),
    )
    return Scan(np.stack(volumes), _LPS_TO_RAS @ affine, series.modality, provenance)


def files_below(path: Path) -> list[Path]:
    """Every regular file below a folder, in a stable order; links to folders are not followed."""
    if not path.is_dir():
        return [path]
    return [
        Path(folder) / name
        for folder, _, names in sorted(os.walk(path))
        for name in sorted(names)
        if not name.startswith(".") and name != "DICOMDIR" and (Path(folder) / name).is_file()
    ]


def _one_series(
    files: Sequence[Path], path: Path, options: ReadOptions
) -> tuple[Series, list[Slice], list[str]]:
    found: dict[str, tuple[Series, list[Slice]]] = {}
    scouts: dict[str, tuple[Series, list[Slice]]] = {}
    refused: list[ScanRefused] = []
    others = 0
    for file in files:
        try:
            series, slices = read_slices(file)
        except ScanRefused as error:
            if error.reason == "not-an-image":
                others += 1
            else:
                refused.append(error)
            continue
        group = scouts if series.localizer else found
        group.setdefault(series.uid, (series, []))[1].extend(slices)
    notes = _without_scouts(found, scouts)
    if options.series is not None:
        found = {uid: value for uid, value in found.items() if uid == options.series}
    if refused and not (found and options.series):
        # A stack with a damaged slice must not pass as whole.
        first = refused[0]
        detail = f"{len(refused)} of {len(files)} files: {first.detail}"
        raise refuse(first.reason, path, detail)
    if not found:
        raise refuse("not-an-image", path, _nothing_here(files))
    if len(found) > 1:
        hashes = ", ".join(sorted(found)[:8])
        raise refuse("several-series", path, f"{len(found)} series: {hashes}")
    ((series, slices),) = found.values()
    if others:
        notes.append(f"passed over {others} files without an image")
    if refused:
        # Which series they belonged to cannot be known.
        notes.append(f"{len(refused)} unusable files beside it; the stack may be incomplete")
    return series, slices, notes


def _without_scouts(
    found: dict[str, tuple[Series, list[Slice]]], scouts: dict[str, tuple[Series, list[Slice]]]
) -> list[str]:
    """Leave localizers out of series that hold other slices; keep series of nothing else."""
    beside = sum(len(slices) for uid, (_, slices) in scouts.items() if uid in found)
    for uid, series in scouts.items():
        found.setdefault(uid, series)
    return [f"left out {beside} localizer slices"] if beside else []


def _nothing_here(files: Sequence[Path]) -> str:
    others = sum(format_by_name(file) not in ("dicom", None) for file in files)
    return f"no DICOM image here, but {others} other scans: name one" if others else ""
