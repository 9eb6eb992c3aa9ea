"""What a store knows about one scan, and about itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field, ValidationError

from situs.config import Config
from situs.errors import StoreError
from situs.files import sha256
from situs.store.crop import Background
from situs.store.grid import GridChange
from situs.store.preprocessing import Preprocessing, Spacing

FORMAT = 1
_DIGITS = 32
_SEAL = re.compile(r'("seal": ?")([^"]*)(")')


class Record(Config):
    """One scan. Holds hashes where headers hold identifiers.

    Attributes:
        key: Name in the store.
        source: File or folder, relative to the root of its catalog.
        origin: Hash of the scan's voxels and affine before preprocessing.
        channels: Channels.
        shape: Voxels along each axis.
        spacing: Millimetres.
        affine: Row by row, voxel centres to RAS mm.
        modality: ``"MR"``, ``"CT"``, … or ``"unknown"``.
        intensity: How values were read: ``"hounsfield"`` or ``"relative"``, or both joined by
            ``+`` where channels differ.
        description: Role words of the series.
        series: Hash.
        study: Hash, empty where unknown.
        patient: Hash, empty where unknown.
        near_duplicate_of: Key of a scan with almost the same voxels.
        change: From the scan's own grid to the prepared one.
        background: What lies outside the scan, one value a channel as the store keeps it: the
            scan's own air. Empty in stores made before it was recorded, where readers take the
            scan's least value.
        bytes: Size of the voxel file.
        checksum: SHA-256 of the voxel file.
        sums: SHA-256 of the table of its chunks' checksums; empty in stores made before there
            were any, whose voxels are read unchecked.
        seal: Of the record's own file; see :func:`sealed`.
    """

    # Keys become file names: nothing but hexadecimal digits may.
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
    source: str
    origin: str
    channels: int
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    affine: Annotated[tuple[float, ...], Field(min_length=16, max_length=16)]
    modality: str = "unknown"
    intensity: str = ""
    description: str = ""
    series: str = ""
    study: str = ""
    patient: str = ""
    near_duplicate_of: str = ""
    change: GridChange
    background: Background = ()
    bytes: int
    checksum: str
    sums: str = ""
    seal: str = ""


class Head(Config):
    """A store's own description.

    Attributes:
        format: Of the store's files.
        rules: As asked for.
        spacing_mm: What ``"median"`` became, fixed when the store was begun.
        complete: False from the beginning of a preparation to its end.
        fingerprint: Of data and settings; see :func:`fingerprint`.
        scans: Number of records.
        refused: Number of refused scans.
        records_checksum: SHA-256 of the list of records; empty in stores made before it was kept.
        refused_checksum: Of the list of refused scans.
        seal: Of this description's own file; see :func:`sealed`.
    """

    format: int = FORMAT
    rules: Preprocessing
    spacing_mm: Spacing | None = None
    complete: bool = False
    fingerprint: str = ""
    scans: int = 0
    refused: int = 0
    records_checksum: str = ""
    refused_checksum: str = ""
    seal: str = ""


def sealed(document: Config, indent: int | None = None) -> str:
    """JSON of a document that holds the checksum of its own text in ``seal``."""
    text = document.model_copy(update={"seal": ""}).model_dump_json(indent=indent)
    return _SEAL.sub(lambda found: f"{found[1]}{sha256(text, digits=_DIGITS)}{found[3]}", text)


def is_sealed(text: bytes) -> bool:
    """Whether a document's text is what :func:`sealed` made; True for older ones without seal."""
    written = text.decode("utf-8", "replace")
    found = _SEAL.search(written)
    if found is None:
        return '"seal"' not in written
    return sha256(_SEAL.sub(r"\1\3", written), digits=_DIGITS) == found[2]


def read_head(text: bytes, where: str, remedy: str) -> Head:
    """A store's description.

    Args:
        text: Of its file.
        where: The file, for errors.
        remedy: What to do where it is damaged.

    Raises:
        StoreError: If it is none that this version reads.
    """
    try:
        head = Head.model_validate_json(text)
    except ValidationError:
        raise StoreError(f"{where} cannot be read; {remedy}") from None
    if not is_sealed(text):
        raise StoreError(f"{where} is damaged (its checksum does not fit); {remedy}")
    if head.format != FORMAT:
        raise StoreError(f"{where} has format {head.format}, situs reads {FORMAT}")
    return head


def fingerprint(preprocessing: Preprocessing, records: Iterable[Record]) -> str:
    """Hash of settings and data: equal where a network would see the same scans.

    Does not depend on where the files lay, on their order, or on how voxels were compressed.
    """
    origins = sorted(record.origin for record in records)
    # Settings that came later count only where they say something new.
    later = {"ct_range"} if preprocessing.ct_range == (-1.0, 1.0) else set()
    settings = preprocessing.model_dump_json(exclude=later | {"compression"})
    return sha256("\n".join([str(FORMAT), settings, *origins]), digits=16)
