"""Read one candidate and describe it: an :class:`Entry`, accepted or refused."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from situs.catalog.near_duplicates import Thumbnail, thumbnail
from situs.catalog.patients import patient_in
from situs.errors import NotWritten, ScanRefused
from situs.remote import Unreachable
from situs.scans.afar import at_hand
from situs.scans.discovery import Candidate
from situs.scans.privacy import digest
from situs.scans.quality import looks_like_labels
from situs.scans.read import read_scan, read_series
from situs.scans.refusals import refuse
from situs.scans.scan import Scan
from situs.text import times

Volumes = Literal["refuse", "first", "each"]
BurnedIn = Literal["accept", "refuse"]
_SAMPLE = 500_000


class Entry(BaseModel):
    """One line of a catalog. Holds hashes where headers hold identifiers, and no free text.

    Attributes:
        key: Unique in the catalog, and the scan's name in a store.
        path: File or DICOM folder, relative to the catalog's root; a name that is no UTF-8 is
            spelt out (:mod:`situs.scans.names`).
        files: Names relative to ``path``, for a series that does not fill its folder.
        volume: Which volume of several, None where there is one.
        format: ``"nifti"``, ``"nrrd"``, ``"mha"``, ``"dicom"``, empty where refused.
        reason: Code of the refusal, empty where accepted.
        detail: What exactly is wrong.
        channels: Channels.
        shape: Voxels along each axis.
        spacing: Millimetres.
        orientation: Where the axes run towards, for instance ``"RAS"``.
        affine: Row by row, voxel centres to RAS mm.
        dtype: Of the voxels, after rescaling.
        modality: ``"MR"``, ``"CT"``, … or ``"unknown"``.
        description: Role words recognised in the series' description.
        intensity_min: Lowest value.
        intensity_p1: First percentile.
        intensity_p99: Last percentile.
        intensity_max: Highest value.
        series: Hash of the DICOM series (empty where it has no identifier) or of the path.
        study: Hash; scans of one study share a frame of reference. Empty where unknown.
        patient: Hash of the header's identifier; where there is none, of what the path tells
            (:mod:`situs.catalog.patients`). Empty where unknown.
        content: Hash of the voxels' values.
        duplicate_of: Key of an earlier scan with the same voxels.
        near_duplicate_of: Key of an earlier scan with almost the same voxels.
        notes: What was handled while reading.
        burned_in: Whether the header says that text stands in the pixels, perhaps a name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    path: str
    files: tuple[str, ...] = ()
    volume: int | None = None
    format: str = ""
    reason: str = ""
    detail: str = ""
    channels: int = 0
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    orientation: str = ""
    affine: tuple[float, ...] = ()
    dtype: str = ""
    modality: str = ""
    description: str = ""
    intensity_min: float | None = None
    intensity_p1: float | None = None
    intensity_p99: float | None = None
    intensity_max: float | None = None
    series: str = ""
    study: str = ""
    patient: str = ""
    content: str = ""
    duplicate_of: str = ""
    near_duplicate_of: str = ""
    notes: tuple[str, ...] = ()
    burned_in: bool = False

    def __repr__(self) -> str:
        if self.reason:
            return f"Entry('{self.path}', refused: {self.reason})"
        spacing = times(f"{s:.3g}" for s in self.spacing)
        facts = f"{times(self.shape)} voxels, {spacing} mm, {self.orientation}, {self.modality}"
        return f"Entry('{self.path}', {facts})"

    @property
    def accepted(self) -> bool:
        """Whether the scan can be used."""
        return not self.reason


@dataclass(frozen=True)
class Job:
    """A candidate and how to read it; picklable."""

    root: Path
    candidate: Candidate
    volumes: Volumes = "refuse"
    modality: str | None = None
    planes: bool = False
    burned_in: BurnedIn = "accept"


@dataclass(frozen=True)
class Measured:
    """An entry and the scan's thumbnail, by which near-duplicates are found."""

    entry: Entry
    thumbnail: Thumbnail | None = None


def measure(job: Job) -> list[Measured]:
    """Describe the scans of one candidate; no scan raises anything, so that one stops no run.

    Raises:
        NotWritten: If a scan behind a URL finds no room here.
        Unreachable: If the URL does not answer.
    """
    try:
        with _at_hand(job.root, job.candidate) as here:
            near = replace(job, root=here)
            return [_measured(near, scan, volume) for volume, scan in _volumes(near)]
    except (NotWritten, Unreachable):
        raise  # of no scan, but of the place or the disk
    except ScanRefused as error:
        return [Measured(refused_entry(job.candidate, error))]
    except Exception as error:
        refusal = ScanRefused("unreadable-file", job.candidate.path, type(error).__name__)
        return [Measured(refused_entry(job.candidate, refusal))]


def read_entry(entry: Entry, root: Path, *, planes: bool = False) -> Scan:
    """Read the scan that an entry describes.

    Raises:
        ScanRefused: Where it cannot be read any more.
        NotWritten: If a scan behind a URL finds no room here.
        Unreachable: If the URL does not answer.
    """
    candidate = Candidate(entry.path, entry.files, entry.series if entry.format == "dicom" else "")
    modality = entry.modality or None
    with _at_hand(root, candidate) as here:
        scan = _read(Job(here, candidate, modality=modality, planes=planes), entry.volume)
    provenance = replace(scan.provenance, series=entry.series, description=entry.description)
    return replace(scan, provenance=provenance)


def _at_hand(root: Path, candidate: Candidate) -> AbstractContextManager[Path]:
    return at_hand(root, candidate.path, candidate.files if candidate.is_folder else None)


def refused_entry(candidate: Candidate, error: ScanRefused) -> Entry:
    """The entry of a candidate that is not used."""
    return Entry(
        key=_key(candidate, None),
        path=candidate.path,
        files=candidate.files,
        series=candidate.series,
        reason=error.reason,
        detail=error.detail,
    )


def _volumes(job: Job) -> list[tuple[int | None, Scan]]:
    """The scans of a candidate: one, or those of its volumes that are wanted."""
    try:
        return [(None, _read(job, None))]
    except ScanRefused as error:
        if error.reason != "four-dimensional" or job.volumes == "refuse":
            raise
    if job.volumes == "first":
        return [(0, _read(job, 0))]
    try:
        scan = _read(job, "all")
    except ScanRefused as error:
        if error.reason != "four-dimensional":
            raise
        return _one_by_one(job)
    count = scan.array.shape[0]
    return [(v, replace(scan, array=scan.array[v : v + 1])) for v in range(count)]


def _one_by_one(job: Job) -> list[tuple[int | None, Scan]]:
    """The volumes of a candidate that lie on grids of their own."""
    scans: list[tuple[int | None, Scan]] = []
    while True:
        try:
            scans.append((len(scans), _read(job, len(scans))))
        except ScanRefused as error:
            if error.reason != "no-such-volume":
                raise
            return scans


def _read(job: Job, volume: int | Literal["all"] | None) -> Scan:
    candidate = job.candidate
    path = candidate.place(job.root)
    if candidate.files:
        return read_series(
            candidate.places(job.root),
            path,
            volume,
            series=candidate.series or None,
            modality=job.modality,
            planes=job.planes,
        )
    return read_scan(
        path,
        volume,
        series=candidate.series or None,
        modality=job.modality,
        planes=job.planes,
    )


def _measured(job: Job, scan: Scan, volume: int | None) -> Measured:
    candidate = job.candidate
    if scan.provenance.burned_in and job.burned_in == "refuse":
        raise refuse("burned-in", candidate.path)
    values = np.ascontiguousarray(scan.array)
    if looks_like_labels(values):
        raise refuse("label-map", candidate.path)
    sample = values.reshape(-1)[:: max(1, values.size // _SAMPLE)].astype(np.float64)
    p1, p99 = np.percentile(sample, (1, 99)).tolist()
    provenance = scan.provenance
    dicom = provenance.format == "dicom"
    entry = Entry(
        key=_key(candidate, volume),
        path=candidate.path,
        files=candidate.files,
        volume=volume,
        format=provenance.format,
        channels=values.shape[0],
        shape=scan.shape,
        spacing=tuple(round(s, 6) for s in scan.spacing),
        orientation=scan.orientation,
        affine=tuple(scan.affine.reshape(-1).tolist()),
        dtype=str(values.dtype),
        modality=scan.modality,
        description=provenance.description,
        intensity_min=float(values.min()),
        intensity_p1=p1,
        intensity_p99=p99,
        intensity_max=float(values.max()),
        series=candidate.series if dicom else digest("file", candidate.path),
        study=provenance.study,
        patient=provenance.patient or patient_in(candidate.path),
        content=_content(values),
        notes=provenance.notes,
        burned_in=provenance.burned_in,
    )
    return Measured(entry, thumbnail(scan.array, scan.affine))


def _content(values: npt.NDArray[np.generic]) -> str:
    """Hash of values and shape, the same for equal values of any dtype.

    Another hash than :func:`situs.files.sha256`: stores and runs of earlier versions hold it.
    """
    hashed = hashlib.blake2b(repr(values.shape).encode(), digest_size=16)
    for channel in values:
        for plane in channel:
            hashed.update(np.ascontiguousarray(plane, dtype=np.float32).data)
    return hashed.hexdigest()


def _key(candidate: Candidate, volume: int | None) -> str:
    return digest("scan", candidate.path, candidate.series, "" if volume is None else volume)
