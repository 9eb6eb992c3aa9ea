"""Small DICOM studies of prescribed planes, cut from any volume: for trying out, and for tests.

Two kinds. ``heart`` has a short-axis stack and single 2-, 3- and 4-chamber slices that share a
long axis, all cine; ``knee`` has oblique sagittal, coronal and axial stacks. The anatomy is that
of the volume they are cut from: only the geometry is that of a heart or knee examination. Planes
follow the foreground of the volume. Each series has its own few degrees and millimetres of the
variation that technicians have, and its own field of view, so that where planes cross one another
in an image can only be told from what it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.spatial.transform import Rotation

from situs.demo.cohort import demo_cohort
from situs.files import writing
from situs.geometry import Plane
from situs.geometry.frames import turn_lps_ras
from situs.planning import prepared_studies
from situs.store import Preprocessing
from situs.views.planes import centred_plane, cut_planes
from situs.views.planes_virtual import anatomy, in_plane_axes
from situs.views.source import Source

Kind = Literal["heart", "knee"]
Array = npt.NDArray[np.float64]

_SPREAD_DEG, _SPREAD_MM = 2.0, 2.0  # how differently technicians prescribe; standard deviations
_FIELD_DEG, _FIELD_SHIFT = 20.0, 0.1  # most that a field of view is turned, moved (of its width)
_BEAT_MS = 800.0


@dataclass(frozen=True)
class DemoSeries:
    """A series to be written.

    Attributes:
        description: Series description.
        planes: Slices in order along their normal.
        thickness_mm: Of a slice.
        step_mm: Between slices.
        frames: Time frames; 1 for a series that is no cine.
    """

    description: str
    planes: tuple[Plane, ...]
    thickness_mm: float
    step_mm: float
    frames: int = 1


def write_demo_studies(
    sources: Sequence[Source], out: str | Path, kind: Kind = "heart", seed: int = 0
) -> list[Path]:
    """One study folder a source, one folder a series, one file a slice and frame.

    Args:
        sources: Volumes to cut.
        out: Folder; made if absent.
        kind: ``"heart"`` or ``"knee"``.
        seed: Of the poses, the files' order and the identifiers.

    Returns:
        The study folders.
    """
    prescribe: Callable[..., list[DemoSeries]] = heart if kind == "heart" else knee
    folders = []
    for number, source in enumerate(sources):
        rng = np.random.default_rng([seed, number])
        folder = Path(out) / f"{kind}-{number:03d}"
        write_study(source, prescribe(source, rng), folder, f"{seed}-{number}-{kind}", rng)
        folders.append(folder)
    return folders


def heart(
    source: Source, rng: np.random.Generator, pixels: int = 64, frames: int = 2
) -> list[DemoSeries]:
    """A short-axis stack, and 2-, 3- and 4-chamber slices turned about the long axis by 60°."""
    center, extent = _place(source)
    frame = Rotation.from_euler("xyz", [35, 40, 0], degrees=True).as_matrix()
    long_axis, step = frame[:, 2], extent / 12
    spacing = 1.6 * extent / pixels
    field = _Field(center, pixels, spacing, step, 0.8 * step, frames)
    series = [_stack("cine SAX", long_axis, 9, field, rng)]
    for name, degrees in (("4CH", 0.0), ("2CH", 60.0), ("3CH", 120.0)):
        about = Rotation.from_rotvec(np.radians(degrees) * long_axis).as_matrix()
        series.append(_stack(f"cine {name}", about @ frame[:, 0], 1, field, rng))
    return series


def knee(source: Source, rng: np.random.Generator, pixels: int = 64) -> list[DemoSeries]:
    """Sagittal, coronal and axial stacks, turned together by the leg's pose."""
    center, extent = _place(source)
    frame = Rotation.from_euler("xyz", [4, 8, -12], degrees=True).as_matrix()
    step = extent / 16
    field = _Field(center, pixels, 1.1 * extent / pixels, step, 0.9 * step, 1)
    names = ("PD fs sag", "PD fs cor", "PD fs ax")
    return [_stack(name, frame[:, axis], 11, field, rng) for axis, name in enumerate(names)]


@dataclass(frozen=True)
class _Field:
    """What the series of a study have in common."""

    center_mm: Array
    pixels: int
    spacing_mm: float
    step_mm: float
    thickness_mm: float
    frames: int


def _place(source: Source) -> tuple[Array, float]:
    """Centre of the anatomy and its size in mm."""
    place = anatomy(source.read((0, 0, 0), source.shape), source.affine)
    reach = [place.reach_mm(axis) for axis in np.eye(3)]
    return place.center_mm, float(np.median([high - low for low, high in reach]))


def _stack(
    description: str, normal: Array, slices: int, field: _Field, rng: np.random.Generator
) -> DemoSeries:
    """A series as one technician would prescribe it."""
    turn = Rotation.from_rotvec(np.radians(_SPREAD_DEG) * rng.normal(size=3)).as_matrix()
    row, column = in_plane_axes(turn @ normal)
    unit = np.cross(row, column)
    in_plane = np.radians(_FIELD_DEG) * rng.uniform(-1, 1)
    row, column = Rotation.from_rotvec(in_plane * unit).apply([row, column])
    width = field.pixels * field.spacing_mm
    right, down = _FIELD_SHIFT * width * rng.uniform(-1, 1, 2)
    center = field.center_mm + right * row + down * column
    center = center + _SPREAD_MM * rng.normal() * unit
    # Scanners write fewer rows than columns as often as not.
    shape, spacing = (round(0.8 * field.pixels), field.pixels), (field.spacing_mm,) * 2
    offsets = (np.arange(slices) - (slices - 1) / 2) * field.step_mm
    planes = tuple(centred_plane(center + o * unit, row, column, shape, spacing) for o in offsets)
    return DemoSeries(description, planes, field.thickness_mm, field.step_mm, field.frames)


def write_study(
    source: Source,
    series: Sequence[DemoSeries],
    folder: str | Path,
    identity: str,
    rng: np.random.Generator,
) -> None:
    """Write one study as classic MR images, each checked against the standard's value rules.

    Args:
        source: The volume whose slices are the images; its values are stretched to 12 bits.
        series: What to cut.
        folder: Gets one sub-folder a series.
        identity: What all identifiers are derived from.
        rng: Of the cine's variation and of the files' order, which says nothing on position.
    """
    low, high = np.percentile(source.read((0, 0, 0), source.shape), [0.5, 99.5])
    scale = 4000 / max(float(high - low), 1e-6)
    for number, one in enumerate(series, start=1):
        below = Path(folder) / f"{number:02d}"
        below.mkdir(parents=True, exist_ok=True)
        images = np.clip((cut_planes(source, one.planes)[:, 0] - low) * scale, 0, 4000)
        places = [(f, s) for f in range(one.frames) for s in range(len(one.planes))]
        for name, (frame, index) in zip(rng.permutation(len(places)), places, strict=True):
            beat = 1 + 0.1 * np.sin(2 * np.pi * frame / one.frames)
            noise = rng.normal(scale=20, size=images[index].shape)
            pixels = np.clip(images[index] * beat + noise, 0, 4095).astype(np.uint16)
            dataset = _image(one, number, index, frame, pixels, identity)
            with writing(below / f"IM{name + 1:04d}.dcm") as part:
                dataset.save_as(part, enforce_file_format=True)


def _image(
    series: DemoSeries, number: int, index: int, frame: int, pixels: npt.NDArray[np.uint16],
    identity: str,
) -> FileDataset:  # fmt: skip
    plane = series.planes[index]
    instance = frame * len(series.planes) + index + 1

    def uid(*parts: object) -> UID:
        return generate_uid(entropy_srcs=["situs", identity, *map(str, parts)])

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = uid("image", number, instance)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.update(_dataset(_header(series, plane, number, instance, frame, identity, uid)))
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.tobytes()
    return dataset


def _dataset(values: dict[str, Any]) -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def _header(
    series: DemoSeries,
    plane: Plane,
    number: int,
    instance: int,
    frame: int,
    identity: str,
    uid: Callable[..., UID],
) -> dict[str, Any]:
    def decimals(values: npt.ArrayLike) -> list[str]:
        """Decimal strings of at most 16 characters, as the standard wants them."""
        return [f"{v:.9f}"[:16] for v in np.asarray(values, dtype=float).ravel()]

    cine = {
        "TriggerTime": decimals(_BEAT_MS * frame / series.frames)[0],
        "TemporalPositionIdentifier": frame + 1,
        "NumberOfTemporalPositions": series.frames,
    }
    return {
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": uid("image", number, instance),
        "StudyInstanceUID": uid("study"),
        "SeriesInstanceUID": uid("series", number),
        "FrameOfReferenceUID": uid("frame"),
        "PatientName": "Demo^Virtual",
        "PatientID": f"demo-{identity}",
        "PatientBirthDate": "",
        "PatientSex": "",
        "StudyDate": "",
        "StudyTime": "",
        "StudyID": "",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "Modality": "MR",
        "Manufacturer": "situs",
        "SeriesDescription": series.description,
        "SeriesNumber": number,
        "PositionReferenceIndicator": "",
        "ImageType": ["DERIVED", "SECONDARY", "REFORMATTED"],
        "InstanceNumber": instance,
        "ImagePositionPatient": decimals(turn_lps_ras(plane.origin_mm)),
        "ImageOrientationPatient": decimals(turn_lps_ras([plane.row_mm, plane.column_mm]).ravel()),
        "PixelSpacing": decimals(plane.spacing),
        "SliceThickness": decimals(series.thickness_mm)[0],
        "SpacingBetweenSlices": decimals(series.step_mm)[0],
        "ScanningSequence": "RM",
        "SequenceVariant": "NONE",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "EchoTime": "",
        "EchoTrainLength": "",
        "RepetitionTime": "",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        **(cine if series.frames > 1 else {}),
    }


def cut_demo_studies(
    volumes: Sequence[Path], folder: str | Path, kind: Literal["heart", "knee"], seed: int
) -> list[Path]:
    """Cut DICOM studies from plain volumes; see :func:`write_demo_studies`."""
    studies = prepared_studies(volumes, Preprocessing(spacing="native"))
    return write_demo_studies([study[0] for study in studies], folder, kind, seed)


def make_demo_studies(
    folder: str | Path, kind: Literal["heart", "knee"], subjects: int, seed: int
) -> list[Path]:
    """Cut DICOM studies from subjects of the demo cohort."""
    with TemporaryDirectory() as cohort:
        demo_cohort(Path(cohort), subjects=subjects, seed=seed)
        volumes = sorted((Path(cohort) / "images").glob("*.nii.gz"))
        return cut_demo_studies(volumes, folder, kind, seed)
