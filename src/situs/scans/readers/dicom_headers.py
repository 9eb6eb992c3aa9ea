"""From DICOM headers to slices: one :class:`Slice` a plane, classic or enhanced alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from situs.scans.privacy import digest, digest_patient, role_words
from situs.scans.readers.dicom_open import quiet, read_dataset
from situs.scans.refusals import refuse

Vector = tuple[float, float, float]

# Objects that may lie beside images and are no scans: documents, states, plans, waveforms.
_NO_PIXELS = ("SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTRECORD", "DOC", "REG", "FID", "AU", "ECG")
_NO_SCAN = ("SEG", "RTDOSE", "RWV", "SMR")
_SAFE_MODALITIES = frozenset(
    {"CT", "MR", "PT", "NM", "US", "XA", "MG", "CR", "DX", "RF", "OT", "OPT", "IVUS", "SC"}
)


@dataclass(frozen=True)
class Series:
    """What all slices of one series share; identifiers are hashes already."""

    uid: str
    study: str
    patient: str
    modality: str
    description: str
    localizer: bool


@dataclass(frozen=True)
class Slice:
    """One plane of pixels and where it lies.

    Attributes:
        file: Where the pixels are.
        frame: Index of the frame in the file.
        instance: Hash that tells copies of one slice.
        position_mm: Centre of the first pixel, LPS.
        row: Unit direction of increasing column index, LPS.
        column: Unit direction of increasing row index, LPS.
        spacing: Millimetres between rows, between columns.
        shape: Rows, columns.
        thickness: Slice thickness in mm, 0 where unknown.
        slope: Rescale slope.
        intercept: Rescale intercept.
        order: Sorts slices that share a position into volumes (time, echo, diffusion, …).
        bits: Allocated for a stored value.
    """

    file: Path
    frame: int
    instance: str
    position_mm: Vector
    row: Vector
    column: Vector
    spacing: tuple[float, float]
    shape: tuple[int, int]
    thickness: float
    slope: float
    intercept: float
    order: tuple[tuple[float, ...], ...]
    bits: int


@quiet()
def read_slices(file: Path) -> tuple[Series, list[Slice]]:
    """All slices of one file, from its header alone.

    Raises:
        ScanRefused: Where the file is no greyscale image with a place in space.
    """
    dataset = read_dataset(file, pixels=False)
    _check_image(dataset, file)
    _check_grey(dataset, file)
    series = _series(dataset)
    if "PerFrameFunctionalGroupsSequence" in dataset:
        return series, _enhanced(dataset, file)
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise refuse("no-geometry", file, "frames without a position each")
    return series, [_classic(dataset, file)]


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
    modality = str(dataset.get("Modality", ""))
    if modality in _NO_PIXELS or "Rows" not in dataset:
        if modality not in _NO_PIXELS and str(dataset.SOPClassUID.name).endswith("Image Storage"):
            raise refuse("truncated-file", file, "the header ends too early")
        raise refuse("not-an-image", file, "this DICOM object holds no image")


def _check_grey(dataset: Dataset, file: Path) -> None:
    if str(dataset.get("Modality", "")) in _NO_SCAN:
        raise refuse("unsupported-dicom", file, "this DICOM object is derived from a scan")
    colour = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or not colour.startswith("MONOCHROME"):
        raise refuse("colour-image", file)
    if "MOSAIC" in _image_type(dataset):
        raise refuse("unsupported-dicom", file, "slices are tiled into one picture (mosaic)")
    if "ModalityLUTSequence" in dataset:
        raise refuse("unsupported-dicom", file, "stored values are mapped by a table")


def _image_type(dataset: Dataset) -> list[str]:
    value = dataset.get("ImageType") or []
    return [str(v).upper() for v in ([value] if isinstance(value, str) else value)]


def _series(dataset: Dataset) -> Series:
    def text(name: str) -> str:
        return str(dataset.get(name) or "")

    frame = text("FrameOfReferenceUID")
    description = role_words(text("SeriesDescription"), text("ProtocolName"))
    kinds = _image_type(dataset)
    modality = text("Modality").upper()
    return Series(
        uid=digest("series", text("SeriesInstanceUID")),
        study=digest("study", text("StudyInstanceUID"), frame) if frame else "",
        patient=digest_patient(text("PatientID"), text("IssuerOfPatientID")),
        modality=modality if modality in _SAFE_MODALITIES else "unknown",
        description=description,
        localizer="LOCALIZER" in kinds or "localizer" in description.split(),
    )


def _classic(dataset: Dataset, file: Path) -> Slice:
    position = _numbers(dataset, "ImagePositionPatient", 3, file)
    orientation = _numbers(dataset, "ImageOrientationPatient", 6, file)
    instance = str(dataset.get("SOPInstanceUID") or file)
    order = (
        _order(dataset, "TemporalPositionIdentifier"),
        _order(dataset, "TriggerTime"),
        _order(dataset, "EchoTime"),
        _order(dataset, "DiffusionBValue"),
        _order(dataset, "AcquisitionNumber"),
        tuple(float(ord(c)) for c in "\\".join(_image_type(dataset))),
        _order(dataset, "AcquisitionTime"),
        _order(dataset, "InstanceNumber"),
    )
    return _slice(
        dataset,
        file,
        frame=0,
        instance=instance,
        position=position,
        orientation=orientation,
        spacing=_numbers(dataset, "PixelSpacing", 2, file),
        thickness=_number(dataset, "SliceThickness", 0.0),
        rescale=(_number(dataset, "RescaleSlope", 1.0), _number(dataset, "RescaleIntercept", 0.0)),
        order=order,
    )


def _enhanced(dataset: Dataset, file: Path) -> list[Slice]:
    """Frames of an enhanced object; a group is per frame or else shared (PS3.3 C.7.6.16).

    Raises:
        ScanRefused: ``no-geometry`` where neither place has the group.
    """
    shared = _first(dataset, "SharedFunctionalGroupsSequence")
    instance = str(dataset.get("SOPInstanceUID") or file)
    slices = []
    for frame, own in enumerate(dataset.PerFrameFunctionalGroupsSequence):

        def group(name: str, own: Dataset = own) -> Dataset:
            return _first(own, name) or _first(shared, name)

        content = group("FrameContentSequence")
        rescale = group("PixelValueTransformationSequence")
        measures = group("PixelMeasuresSequence")
        diffusion = group("MRDiffusionSequence")
        order = (
            _order(content, "TemporalPositionIndex"),
            _order(group("CardiacSynchronizationSequence"), "NominalCardiacTriggerDelayTime"),
            _order(group("MREchoSequence"), "EffectiveEchoTime"),
            _order(diffusion, "DiffusionBValue"),
            (float(frame),),
        )
        slices.append(
            _slice(
                dataset,
                file,
                frame=frame,
                instance=f"{instance}/{frame}",
                position=_numbers(group("PlanePositionSequence"), "ImagePositionPatient", 3, file),
                orientation=_numbers(
                    group("PlaneOrientationSequence"), "ImageOrientationPatient", 6, file
                ),
                spacing=_numbers(measures, "PixelSpacing", 2, file),
                thickness=_number(measures, "SliceThickness", 0.0),
                rescale=(
                    _number(rescale, "RescaleSlope", 1.0),
                    _number(rescale, "RescaleIntercept", 0.0),
                ),
                order=order,
            )
        )
    return slices


def _slice(
    dataset: Dataset,
    file: Path,
    *,
    frame: int,
    instance: str,
    position: list[float],
    orientation: list[float],
    spacing: list[float],
    thickness: float,
    rescale: tuple[float, float],
    order: tuple[tuple[float, ...], ...],
) -> Slice:
    return Slice(
        file=file,
        frame=frame,
        instance=digest("instance", instance),
        position_mm=(position[0], position[1], position[2]),
        row=(orientation[0], orientation[1], orientation[2]),
        column=(orientation[3], orientation[4], orientation[5]),
        spacing=(spacing[0], spacing[1]),
        shape=(int(dataset.Rows), int(dataset.Columns)),
        thickness=thickness,
        slope=rescale[0],
        intercept=rescale[1],
        order=order,
        bits=int(dataset.get("BitsAllocated") or 16),
    )


def _first(dataset: Dataset, name: str) -> Dataset:
    items = dataset.get(name)
    return items[0] if items else Dataset()


def _numbers(dataset: Dataset, name: str, count: int, file: Path) -> list[float]:
    try:
        values = [float(v) for v in dataset.get(name) or ()]
    except (TypeError, ValueError):
        values = []
    finite = name == "PixelSpacing" or all(map(math.isfinite, values))  # checked as a spacing
    if len(values) != count or not finite:
        raise refuse("no-geometry", file, f"{name} is missing or has not {count} numbers")
    return values


def _number(dataset: Dataset, name: str, default: float) -> float:
    value: Any = dataset.get(name)
    try:
        return default if value in (None, "") else float(value)
    except (TypeError, ValueError):
        return default


def _order(dataset: Dataset, name: str) -> tuple[float, ...]:
    return (_number(dataset, name, -1.0),)
