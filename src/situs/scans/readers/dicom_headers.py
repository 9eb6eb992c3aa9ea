"""From DICOM headers to slices: one :class:`Slice` a plane, classic or enhanced alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydicom.dataset import Dataset

from situs.errors import ScanRefused
from situs.scans.privacy import digest, digest_patient, is_placeholder, role_words
from situs.scans.readers.dicom_keys import (
    Value,
    classic_keys,
    first,
    frame_keys,
    index_values,
    words,
)
from situs.scans.readers.dicom_mosaic import Tile, mosaic_tiles
from situs.scans.readers.dicom_numbers import (
    optional_number,
    padding,
    required_numbers,
    rescale_value,
)
from situs.scans.readers.dicom_open import (
    PixelsAt,
    missing_attributes,
    no_image,
    quiet,
    read_dataset,
    read_head,
)
from situs.scans.refusals import refuse, unreadable

Vector = tuple[float, float, float]

# Objects that may lie beside images and are no scans: documents, states, plans, waveforms.
_NO_PIXELS = ("SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTRECORD", "DOC", "REG", "FID", "AU", "ECG")
_NO_SCAN = ("SEG", "RTDOSE", "RWV", "SMR")
_SAFE_MODALITIES = frozenset(
    {"CT", "MR", "PT", "NM", "US", "XA", "MG", "CR", "DX", "RF", "OT", "OPT", "IVUS", "SC"}
)
# Words that consoles give to localizers and radiologists to scans; geometry must agree.
_PERHAPS_LOCALIZER = re.compile(r"survey|\bloc\b")


@dataclass(frozen=True)
class Series:
    """What all slices of one series share; identifiers are hashes already.

    Attributes:
        uid: Hash of the series' identifier.
        study: Hash of study and frame of reference, empty where unknown.
        visit: Hash of the study alone, empty where unknown.
        patient: Hash of the patient's identifier, empty where unknown.
        modality: One of DICOM's, or "unknown".
        description: Role words.
        localizer: Whether ImageType says so.
        called_localizer: Whether the description may mean a localizer; a matter of geometry.
        nameless: Whether the patient's identifier is one that an anonymiser gives to all.
        burned_in: Whether BurnedInAnnotation says that text stands in the pixels.
    """

    uid: str
    study: str
    patient: str
    modality: str
    description: str
    localizer: bool
    called_localizer: bool = False
    nameless: bool = False
    burned_in: bool = False
    visit: str = ""


@dataclass(frozen=True)
class Slice:
    """One plane of pixels and where it lies.

    Attributes:
        file: Where the pixels are.
        frame: Index of the frame in the file.
        instance: Hash of the object's identifier and the frame.
        position_mm: Centre of the first pixel, LPS.
        row: Unit direction of increasing column index, LPS.
        column: Unit direction of increasing row index, LPS.
        spacing: Millimetres between rows, between columns.
        shape: Rows, columns.
        thickness: Slice thickness in mm, 0 where unknown.
        step_mm: Spacing between slices as the header has it, 0 where unknown.
        slope: Rescale slope.
        intercept: Rescale intercept.
        rescaled: Whether the header has a slope or an intercept.
        index: DimensionIndexValues.
        keys: Values of :data:`~situs.scans.readers.dicom_keys.KEYS`.
        bits: Allocated for a stored value.
        padding: Lowest and highest stored value that stands for no measurement, None for none.
        tile: Where the plane lies in a picture of several, None for the whole picture.
        assumed: Attributes that are missing and have a default.
        kind: SOP class.
        space: Hash of study and frame of reference, empty where unknown.
        pixels: Where the pixels begin in the file, None where all of it must be read again.
    """

    file: Path
    frame: int
    instance: str
    position_mm: Vector
    row: Vector
    column: Vector
    spacing: tuple[float, float]
    shape: tuple[int, int]
    thickness: float = 0.0
    step_mm: float = 0.0
    slope: float = 1.0
    intercept: float = 0.0
    rescaled: bool = False
    index: Value = ()
    keys: tuple[Value, ...] = ()
    bits: int = 16
    padding: tuple[float, float] | None = None
    tile: Tile | None = None
    assumed: tuple[str, ...] = ()
    kind: str = ""
    space: str = ""
    pixels: PixelsAt | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Header:
    """What one file holds.

    Attributes:
        series: None where the file is no DICOM image.
        slices: Empty where they cannot be used.
        refusal: Why they cannot.
        kind: SOP class.
    """

    series: Series | None = None
    slices: Sequence[Slice] = ()
    refusal: ScanRefused | None = None
    kind: str = ""


@quiet()
def read_header(file: Path) -> Header:
    """Series and slices of one file, from its header alone; raises nothing for bad files."""
    series, kind = None, ""
    try:
        dataset, at = read_head(file)
        _check_image(dataset, file)
        series, kind = _series(dataset), str(dataset.get("SOPClassUID", ""))
        _check_grey(dataset, file)
        slices = [replace(s, pixels=at, space=series.study) for s in _slices(dataset, file)]
        return Header(series, slices, None, kind)
    except ScanRefused as error:
        return Header(series, (), error, kind)
    except Exception as error:
        return Header(series, (), unreadable(file, error), kind)  # a damaged header


@quiet()
def read_series(file: Path) -> Series:
    """The series that a file belongs to, whether or not its slices can be used.

    Raises:
        ScanRefused: Where the file is no DICOM image.
    """
    dataset = read_dataset(file, pixels=False)
    _check_image(dataset, file)
    return _series(dataset)


def _check_image(dataset: Dataset, file: Path) -> None:
    if str(dataset.get("Modality", "")) in _NO_PIXELS:
        raise no_image(file, dataset.get("SOPClassUID"))


def _check_grey(dataset: Dataset, file: Path) -> None:
    if str(dataset.get("Modality", "")) in _NO_SCAN:
        raise refuse("unsupported-dicom", file, "this DICOM object is derived from a scan")
    colour = str(dataset.get("PhotometricInterpretation") or "MONOCHROME2")
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or not colour.startswith("MONOCHROME"):
        raise refuse("colour-image", file)
    if "ModalityLUTSequence" in dataset:
        raise refuse("unsupported-dicom", file, "stored values are mapped by a table")


def _slices(dataset: Dataset, file: Path) -> list[Slice]:
    if "PerFrameFunctionalGroupsSequence" in dataset:
        return _enhanced(dataset, file)
    if _frames(dataset) > 1:
        raise refuse("no-geometry", file, "frames without a position each")
    if "MOSAIC" in words(dataset, "ImageType"):
        return _mosaic(dataset, file)
    return [_classic(dataset, file)]


def _frames(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames") or 1)


def _series(dataset: Dataset) -> Series:
    def text(name: str) -> str:
        return str(dataset.get(name) or "")

    frame = text("FrameOfReferenceUID")
    description = role_words(text("SeriesDescription"), text("ProtocolName"))
    told = f"{text('SeriesDescription')} {text('ProtocolName')}".lower().replace("_", " ")
    modality = text("Modality").upper()
    return Series(
        uid=digest("series", text("SeriesInstanceUID")),
        study=digest("study", text("StudyInstanceUID"), frame) if frame else "",
        patient=_patient(text("PatientID"), text("IssuerOfPatientID"), text("StudyInstanceUID")),
        modality=modality if modality in _SAFE_MODALITIES else "unknown",
        description=description,
        localizer="LOCALIZER" in words(dataset, "ImageType"),
        called_localizer="localizer" in description.split()
        or bool(_PERHAPS_LOCALIZER.search(told)),
        nameless=is_placeholder(text("PatientID")),
        burned_in=text("BurnedInAnnotation").strip().upper() == "YES",
        visit=digest("visit", text("StudyInstanceUID")),
    )


def _patient(identifier: str, issuer: str, study: str) -> str:
    """Hash of whose a series is; of its study where all patients were given one identifier."""
    if study and is_placeholder(identifier):
        return digest_patient(study)
    return digest_patient(identifier, issuer)


def _classic(dataset: Dataset, file: Path) -> Slice:
    return _slice(
        dataset,
        file,
        position=required_numbers(dataset, "ImagePositionPatient", 3, file),
        orientation=required_numbers(dataset, "ImageOrientationPatient", 6, file),
        measures=dataset,
        rescale=dataset,
        keys=classic_keys(dataset),
    )


def _mosaic(dataset: Dataset, file: Path) -> list[Slice]:
    """Slices of a Siemens mosaic: tiles of one picture.

    Raises:
        ScanRefused: ``unsupported-dicom`` where the header does not say how many.
    """
    whole = _classic(dataset, file)
    return [
        _slice(
            dataset,
            file,
            position=position_mm,
            orientation=[*whole.row, *whole.column],
            measures=dataset,
            rescale=dataset,
            keys=whole.keys,
            tile=tile,
        )
        for tile, position_mm in mosaic_tiles(dataset, file)
    ]


def _enhanced(dataset: Dataset, file: Path) -> list[Slice]:
    """Frames of an enhanced object; a group is per frame or else shared (PS3.3 C.7.6.16).

    Raises:
        ScanRefused: ``no-geometry`` where neither place has the group.
    """
    shared = first(dataset, "SharedFunctionalGroupsSequence")
    described, frames = len(dataset.PerFrameFunctionalGroupsSequence), _frames(dataset)
    if described < frames:
        raise refuse("no-geometry", file, f"only {described} of {frames} frames have a position")
    slices = []
    for frame, own in enumerate(dataset.PerFrameFunctionalGroupsSequence):

        def group(name: str, own: Dataset = own) -> Dataset:
            return first(own, name) or first(shared, name)

        plane, turn = group("PlanePositionSequence"), group("PlaneOrientationSequence")
        slices.append(
            _slice(
                dataset,
                file,
                frame=frame,
                position=required_numbers(plane, "ImagePositionPatient", 3, file),
                orientation=required_numbers(turn, "ImageOrientationPatient", 6, file),
                measures=group("PixelMeasuresSequence"),
                # Some writers leave the classic elements at the top in place of the group.
                rescale=group("PixelValueTransformationSequence") or dataset,
                index=index_values(group("FrameContentSequence")),
                keys=frame_keys(dataset, group, frame),
            )
        )
    return slices


def _slice(
    dataset: Dataset,
    file: Path,
    *,
    position: Sequence[float],
    orientation: Sequence[float],
    measures: Dataset,
    rescale: Dataset,
    keys: tuple[Value, ...],
    index: Value = (),
    frame: int = 0,
    tile: Tile | None = None,
) -> Slice:
    instance = str(dataset.get("SOPInstanceUID") or file)
    spacing = required_numbers(measures, "PixelSpacing", 2, file)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    return Slice(
        file=file,
        frame=frame,
        instance=digest("instance", instance, frame),
        position_mm=(position[0], position[1], position[2]),
        row=(orientation[0], orientation[1], orientation[2]),
        column=(orientation[3], orientation[4], orientation[5]),
        spacing=(spacing[0], spacing[1]),
        shape=(rows, columns) if tile is None else tile.shape,
        thickness=optional_number(measures, "SliceThickness", 0.0),
        step_mm=optional_number(measures, "SpacingBetweenSlices", 0.0),
        slope=rescale_value(rescale, "RescaleSlope", 1.0, file),
        intercept=rescale_value(rescale, "RescaleIntercept", 0.0, file),
        rescaled="RescaleSlope" in rescale or "RescaleIntercept" in rescale,
        index=index,
        keys=keys,
        bits=int(dataset.get("BitsAllocated") or 16),
        padding=padding(dataset),
        tile=tile,
        assumed=missing_attributes(dataset),
        kind=str(dataset.get("SOPClassUID", "")),
    )
