"""Segmentations as DICOM-SEG, by highdicom: each voxel in the frame of its own source image."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import generate_uid

from situs.errors import require
from situs.files import sha256, writing
from situs.geometry import Plane
from situs.scans.privacy import digest
from situs.scans.refusals import refuse
from situs.version import __version__

if TYPE_CHECKING:
    import highdicom

_OFF_GRID = 0.05  # voxels that a pixel's centre may lie off a voxel's, from rounded headers
_SERIES_NUMBER = 900  # behind the scanner's own
_SCHEME = "99SITUS"
# May be empty in a file, but not absent; many an anonymiser removes them.
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)


def source_images(files: Sequence[Path], scan: Path, series: str) -> list[pydicom.Dataset]:
    """Headers of the single-frame images of a series, in the order of their places.

    Args:
        files: Files of the scan, and perhaps others beside them.
        scan: Its path, for the refusal.
        series: Hash of its series; empty where it is no DICOM.

    Raises:
        ScanRefused: ``not-dicom`` where there is no series of single-frame images.
        SitusError: Where highdicom is not installed.
    """
    require("highdicom", "dicom")
    found = []
    for file in files if series else ():
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        except (pydicom.errors.InvalidDicomError, OSError):
            continue
        own = digest("series", str(header.get("SeriesInstanceUID", ""))) == series
        if own and "ImagePositionPatient" in header:
            for name in _MAY_BE_EMPTY:
                header.setdefault(name, None)
            found.append(header)
    if not found:
        raise refuse("not-dicom", scan)
    if not all("FrameOfReferenceUID" in header for header in found):
        raise refuse("not-dicom", scan, "its images name no frame of reference")
    normal = Plane.from_dicom(found[0]).normal_mm
    return sorted(found, key=lambda d: float(Plane.from_dicom(d).origin_mm @ normal))


def write_dicom_seg(
    path: Path,
    labels: npt.NDArray[np.int16],
    affine: npt.NDArray[np.float64],
    sources: Sequence[pydicom.Dataset],
    classes: Mapping[int, str],
    origin: str,
) -> None:
    """Write labels as a DICOM-SEG that refers to the images of their scan.

    The patient, the study and the frame of reference are those of the images: such a file is for
    the archive that they came from. Classes are named by codes of situs's own, since a label map
    says nothing of SNOMED.

    Args:
        path: To write.
        labels: Label values ``(X, Y, Z)``; 0 is no segment.
        affine: ``(4, 4)``, voxel centres of the labels to RAS mm.
        sources: From :func:`source_images`.
        classes: Label value → name.
        origin: What made the labels and of what; equal ones give equal UIDs.

    Raises:
        ScanRefused: ``not-dicom`` if pixels of an image lie between voxels of the labels.
    """
    import highdicom  # noqa: PLC0415 - an extra

    values = [value for value in classes if value]
    frames = np.stack([_on_plane(labels, affine, Plane.from_dicom(d), path) for d in sources])
    numbers = np.zeros(max(values, default=0) + 1, dtype=np.uint8)
    numbers[values] = np.arange(1, len(values) + 1)
    method = highdicom.AlgorithmIdentificationSequence(
        name="situs", family=_code("neural-network", "Neural network"), version=__version__
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # highdicom's would print the patient's name
        segmentation = highdicom.seg.Segmentation(
            source_images=list(sources),
            pixel_array=numbers[frames],
            segmentation_type="BINARY",
            segment_descriptions=[
                highdicom.seg.SegmentDescription(
                    segment_number=number,
                    segment_label=classes[value][:64],
                    segmented_property_category=_code("class", "Class of a label map"),
                    segmented_property_type=_code(f"class-{value}", classes[value][:64]),
                    algorithm_type="AUTOMATIC",
                    algorithm_identification=method,
                )
                for number, value in enumerate(values, start=1)
            ],
            series_instance_uid=_uid(origin, "series"),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=_uid(origin, "instance"),
            instance_number=1,
            manufacturer="situs",
            manufacturer_model_name="situs predict",
            software_versions=__version__,
            device_serial_number="none",
            omit_empty_frames=bool(frames.any()),
        )
    with writing(path, ".dcm") as part:
        segmentation.save_as(part)


def _on_plane(
    labels: npt.NDArray[np.int16], affine: npt.NDArray[np.float64], plane: Plane, path: Path
) -> npt.NDArray[np.int16]:
    """The labels at the pixels of an image, ``(rows, columns)``: found in millimetres."""
    rows, columns = plane.shape
    between_rows, between_columns = plane.spacing
    there = np.linalg.inv(affine)
    first = there[:3, :3] @ plane.origin_mm + there[:3, 3]
    down = there[:3, :3] @ (plane.column_mm * between_rows)
    right = there[:3, :3] @ (plane.row_mm * between_columns)
    at = first + np.arange(rows)[:, None, None] * down + np.arange(columns)[None, :, None] * right
    index = np.rint(at).astype(np.int64)
    inside = (index >= 0).all() and (index < labels.shape).all()
    if not inside or np.abs(at - index).max() > _OFF_GRID:
        raise refuse("not-dicom", path, "its images do not lie on the grid of the scan")
    found: npt.NDArray[np.int16] = labels[tuple(np.moveaxis(index, -1, 0))]
    return found


def _code(value: str, meaning: str) -> highdicom.sr.CodedConcept:
    import highdicom  # noqa: PLC0415 - an extra

    return highdicom.sr.CodedConcept(value=value[:16], scheme_designator=_SCHEME, meaning=meaning)


def _uid(origin: str, kind: str) -> str:
    return str(generate_uid(entropy_srcs=[sha256(origin), kind]))
