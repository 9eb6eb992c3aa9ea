"""``read_scan``: one call for every format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from situs.errors import ScanRefused
from situs.registry import Registry
from situs.scans import quality
from situs.scans.formats import format_of, with_header
from situs.scans.parallel import isolated_map
from situs.scans.readers.options import ReadOptions
from situs.scans.refusals import refuse, unreadable
from situs.scans.scan import Scan

READERS = Registry(
    "reader",
    "situs.readers",
    {
        "nifti": "situs.scans.readers.nifti",
        "nrrd": "situs.scans.readers.itk",
        "mha": "situs.scans.readers.itk",
        "mgh": "situs.scans.readers.nibabel_images",
        "minc": "situs.scans.readers.nibabel_images",
        "parrec": "situs.scans.readers.nibabel_images",
        "afni": "situs.scans.readers.nibabel_images",
        "dicom": "situs.scans.readers.dicom",
    },
    ("read",),
)


def read_scan(
    path: str | Path,
    volume: int | Literal["all"] | None = None,
    *,
    series: str | None = None,
    modality: str | None = None,
    planes: bool = False,
    max_bytes: int = quality.MAX_BYTES,
    limit_s: float | None = None,
) -> Scan:
    """Read one scan with its geometry, or say why not.

    Args:
        path: A file in NIfTI, NRRD, MetaImage, MGH/MGZ, MINC, PAR/REC, AFNI or Analyze format, a
            DICOM folder (searched through), or a DICOM file that holds a whole volume.
        volume: Which volume of a scan that holds several (time, echo, diffusion weighting), or
            ``"all"`` for all of them as channels. None refuses such a scan.
        series: Hash of the DICOM series to read where the folder holds several, as in a catalog.
        modality: ``"CT"``, ``"MR"``, …, where the caller knows better than the file. NIfTI, NRRD
            and MHA do not record it: they are "CT" where intensities can only be Hounsfield
            units, and "unknown" otherwise.
        planes: Accept a volume with a single slice.
        max_bytes: Refuse a scan whose voxels take more.
        limit_s: Seconds that reading may take. The scan is then read in a process of its own, so
            that a decoder that hangs on a damaged file, or ends its process, costs this file only
            (``timed-out``, ``crashed``). None reads it here, for as long as that takes; the
            commands always read in other processes.

    Returns:
        The scan in the file's own voxel order, with the affine in RAS mm.

    Raises:
        ScanRefused: With ``.reason`` (a key of ``situs.scans.refusals.REASONS``) and ``.path``.

    Examples:
        >>> scan = situs.read_scan("brain.nii.gz")  # doctest: +SKIP
        >>> scan.array.shape, scan.spacing, scan.orientation  # doctest: +SKIP
    """
    path = with_header(Path(path))
    options = ReadOptions(volume, series, planes, max_bytes)
    scan = _read(path, options) if limit_s is None else _read_apart(path, options, limit_s)
    return finish(scan, path, modality)


def read_label(path: str | Path, *, max_bytes: int = quality.MAX_BYTES) -> Scan:
    """Read a label map; a map of background alone is fine.

    Args:
        path: As in :func:`read_scan`.
        max_bytes: Refuse a map whose voxels take more.

    Returns:
        A scan whose array ``(1, X, Y, Z)`` is int16.

    Raises:
        ScanRefused: As :func:`read_scan`, and ``label-values`` where values are not whole
            numbers from 0 to 32767.
    """
    path = Path(path)
    scan = _read(path, ReadOptions(planes=True, max_bytes=max_bytes))
    given: npt.NDArray[Any] = scan.array
    values = np.rint(given) if given.dtype.kind == "f" else given
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= np.iinfo(np.int16).max):
        raise refuse("label-values", path, f"values run from {low:g} to {high:g}")
    # Scale factors in headers leave 2.0000001; a probability map is another thing.
    if values is not given and float(np.abs(values - given).max()) > 1e-3:
        raise refuse("label-values", path, "values are not whole numbers")
    return replace(scan, array=values.astype(np.int16))


def read_series(
    files: Sequence[Path],
    path: str | Path,
    volume: int | Literal["all"] | None = None,
    *,
    series: str | None,
    modality: str | None = None,
    planes: bool = False,
    max_bytes: int = quality.MAX_BYTES,
) -> Scan:
    """Read one DICOM series from files that are already known, as a catalog knows them.

    Args:
        files: Those of the series, and perhaps of others.
        path: The folder, for errors.
        volume: As in :func:`read_scan`, and so the rest.
        series: Hash of the series; None where the files are all of one.
        modality: Overrides the header's.
        planes: Accept a single slice.
        max_bytes: Refuse a series whose voxels take more.

    Raises:
        ScanRefused: As :func:`read_scan`.
    """
    options = ReadOptions(volume, series, planes, max_bytes)
    return finish(_read(Path(path), options, files), Path(path), modality)


def _read_apart(path: Path, options: ReadOptions, limit_s: float) -> Scan:
    """Read in another process, and end it after ``limit_s``."""
    job = path, options
    ((_, found),) = isolated_map(
        _read_or_refusal, [job], crashed=_crashed, timed_out=_timed_out, limit_s=limit_s, workers=1
    )
    if isinstance(found, ScanRefused):
        raise found
    return found


def _read_or_refusal(job: tuple[Path, ReadOptions]) -> Scan | ScanRefused:
    try:
        return _read(*job)
    except ScanRefused as error:
        return error


def _crashed(job: tuple[Path, ReadOptions]) -> Scan | ScanRefused:
    return refuse("crashed", job[0])


def _timed_out(job: tuple[Path, ReadOptions]) -> Scan | ScanRefused:
    return refuse("timed-out", job[0])


def _read(path: Path, options: ReadOptions, files: Sequence[Path] = ()) -> Scan:
    try:
        reader = READERS.load(format_of(path))
        scan: Scan = (
            reader.read_files(files, path, options) if files else reader.read(path, options)
        )
    except ScanRefused:
        raise
    except MemoryError:
        raise refuse("too-large", path, "memory did not suffice") from None
    except FileNotFoundError:
        raise refuse("missing-file", path) from None
    except Exception as error:
        raise unreadable(path, error) from None
    return scan


def finish(scan: Scan, path: Path, modality: str | None = None) -> Scan:
    """The checks on intensities and the modality, the same for all formats.

    Raises:
        ScanRefused: ``non-finite`` or ``constant-image``.
    """
    quality.check_intensities(scan.array, path)
    if modality is not None:
        return replace(scan, modality=modality.upper() if modality != "unknown" else modality)
    if scan.modality == "unknown" and quality.looks_like_hounsfield(scan.array):
        note = "taken as CT: intensities are Hounsfield units"
        notes = (*scan.provenance.notes, note)
        return replace(scan, modality="CT", provenance=replace(scan.provenance, notes=notes))
    return scan
