"""Write small DICOM series with every hazard that a test asks for."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"

# Row and column directions of an oblique stack, in LPS, as a scanner would write them.
OBLIQUE = ((1.0, 0.0, 0.0), (0.0, 0.98228725, -0.18738131))
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)


def common(rows: int, columns: int, sop_class: str = MR) -> Dataset:
    """A header without place or pixels."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.Modality = "MR"
    ds.PatientName, ds.PatientID = "Test", "test-1"
    ds.Rows, ds.Columns = rows, columns
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    return ds


def write_series(
    folder: Path,
    voxels: np.ndarray,
    *,
    directions: tuple[Sequence[float], Sequence[float]] = OBLIQUE,
    origin: Sequence[float] = (-40.0, -30.0, 12.0),
    spacing: tuple[float, float] = (0.8, 0.6),
    step: Sequence[float] | float = 3.0,
    names: Sequence[str] | None = None,
    numbers: Sequence[int] | None = None,
    slopes: Sequence[float] | None = None,
    intercepts: Sequence[float] | None = None,
    **header: Any,
) -> list[Path]:
    """Write ``voxels (columns, rows, slices)``, one file a slice.

    ``step`` is a distance along the normal or a vector, from slice to slice; ``names`` and
    ``numbers`` are file names and instance numbers in the order of position; ``header`` sets
    further attributes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    row, column = (np.asarray(d, dtype=float) for d in directions)
    normal = np.cross(row, column)
    vector = normal * step if np.isscalar(step) else np.asarray(step, dtype=float)
    uids = {name: generate_uid() for name in ("series", "study", "frame")}
    files = []
    for k in range(voxels.shape[2]):
        ds = common(voxels.shape[1], voxels.shape[0])
        ds.SeriesInstanceUID, ds.StudyInstanceUID = uids["series"], uids["study"]
        ds.FrameOfReferenceUID = uids["frame"]
        ds.InstanceNumber = k + 1 if numbers is None else numbers[k]
        ds.ImageOrientationPatient = [f"{v:.8f}" for v in (*row, *column)]
        ds.ImagePositionPatient = [f"{v:.8f}" for v in np.asarray(origin) + k * vector]
        ds.PixelSpacing = [f"{s:.10g}" for s in spacing]
        ds.SliceThickness = "3"
        if slopes is not None:
            ds.RescaleSlope = str(slopes[k])
        if intercepts is not None:
            ds.RescaleIntercept = str(intercepts[k])
        for key, value in header.items():
            setattr(ds, key, value)
        ds.PixelData = np.ascontiguousarray(voxels[..., k].T).tobytes()
        file = folder / (f"{k:04d}.dcm" if names is None else names[k])
        ds.save_as(file, enforce_file_format=True)
        files.append(file)
    return files


def edit(file: Path, **header: Any) -> None:
    """Change attributes of a written file; None deletes one."""
    ds = pydicom.dcmread(file)
    for key, value in header.items():
        if value is None:
            delattr(ds, key)
        else:
            setattr(ds, key, value)
    ds.save_as(file)


def big_endian(file: Path) -> None:
    """Write a file of 16 bits again with the other order of bytes."""
    ds = pydicom.dcmread(file)
    ds.PixelData = np.frombuffer(ds.PixelData, np.uint16).byteswap().tobytes()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    pydicom.dcmwrite(file, ds, implicit_vr=False, little_endian=False, force_encoding=True)


def jpeg_lossless(file: Path) -> None:
    """Pack the pixels of a written file as lossless JPEG, with the GDCM inside SimpleITK."""
    _packed_by_itk(file, "JPEG", pydicom.uid.JPEGLosslessSV1)


def jpeg_2000(file: Path) -> None:
    """Pack the pixels of a written file as lossless JPEG 2000, with the GDCM inside SimpleITK."""
    _packed_by_itk(file, "JPEG2000", pydicom.uid.JPEG2000Lossless)


def stream_of_few_bits(file: Path, packing: str, bits: int, *, signed: bool = False) -> None:
    """Pack values of ``bits`` bits as lossless JPEG or JPEG 2000 whose stream says that many.

    ITK's says 16, without a sign. Only the value that counts as 0 depends on it: the middle of the
    range, or, with a sign, which JPEG 2000 alone can name, 0.
    """
    ds = pydicom.dcmread(file)
    middle = 0 if signed else 2 ** (bits - 1)
    ds.PixelData = (ds.pixel_array.astype(np.int32) - middle + 2**15).astype(np.uint16).tobytes()
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 15, 0
    ds.save_as(file)
    pack, marker, to_bits, of_16 = {
        "JPEG lossless": (jpeg_lossless, b"\xff\xc3", 4, 16),
        "JPEG 2000": (jpeg_2000, b"\xff\x51", 40, 15),
    }[packing]
    pack(file)
    ds = pydicom.dcmread(file)
    place = ds.PixelData.index(marker) + to_bits
    assert ds.PixelData[place] == of_16
    said = bytes([bits + of_16 - 16 + 128 * signed])
    ds.PixelData = ds.PixelData[:place] + said + ds.PixelData[place + 1 :]
    ds.BitsStored, ds.HighBit = bits, bits - 1
    ds.save_as(file)


def _packed_by_itk(file: Path, compressor: str, syntax: UID) -> None:
    ds = pydicom.dcmread(file)
    frames = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns)
    with tempfile.TemporaryDirectory() as folder:
        packed = [_frame(f, Path(folder) / "frame.dcm", compressor, syntax) for f in frames]
    ds.PixelData = pydicom.encaps.encapsulate(packed)
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(file, enforce_file_format=True)


def _frame(frame: np.ndarray, file: Path, compressor: str, syntax: UID) -> bytes:
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(file))
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.Execute(sitk.GetImageFromArray(frame))
    ds = pydicom.dcmread(file)
    assert ds.file_meta.TransferSyntaxUID == syntax
    return next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))


def write_enhanced(
    file: Path,
    voxels: np.ndarray,
    *,
    directions: tuple[Sequence[float], Sequence[float]] = OBLIQUE,
    origin: Sequence[float] = (-40.0, -30.0, 12.0),
    spacing: tuple[float, float] = (0.8, 0.6),
    step: float = 3.0,
    order: Sequence[int] | None = None,
    slopes: Sequence[float] | None = None,
    times: int = 1,
) -> None:
    """Write ``voxels (columns, rows, slices·times)`` as one enhanced multi-frame file.

    ``order`` is the order of the frames in the file; orientation is shared, position and
    rescaling are per frame.
    """
    frames = voxels.shape[2]
    slices = frames // times
    row, column = (np.asarray(d, dtype=float) for d in directions)
    normal = np.cross(row, column)
    ds = common(voxels.shape[1], voxels.shape[0], ENHANCED_MR)
    ds.SeriesInstanceUID, ds.StudyInstanceUID = generate_uid(), generate_uid()
    ds.FrameOfReferenceUID = generate_uid()
    ds.NumberOfFrames = frames
    shared = Dataset()
    shared.PlaneOrientationSequence = DicomSequence([Dataset()])
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [*row, *column]
    shared.PixelMeasuresSequence = DicomSequence([Dataset()])
    shared.PixelMeasuresSequence[0].PixelSpacing = list(spacing)
    shared.PixelMeasuresSequence[0].SliceThickness = step
    ds.SharedFunctionalGroupsSequence = DicomSequence([shared])
    groups, pixels = [], []
    for f in range(frames) if order is None else order:
        own = Dataset()
        own.PlanePositionSequence = DicomSequence([Dataset()])
        place = np.asarray(origin) + (f % slices) * step * normal
        own.PlanePositionSequence[0].ImagePositionPatient = [float(v) for v in place]
        own.FrameContentSequence = DicomSequence([Dataset()])
        own.FrameContentSequence[0].TemporalPositionIndex = f // slices + 1
        own.PixelValueTransformationSequence = DicomSequence([Dataset()])
        own.PixelValueTransformationSequence[0].RescaleSlope = 1 if slopes is None else slopes[f]
        own.PixelValueTransformationSequence[0].RescaleIntercept = 0
        groups.append(own)
        pixels.append(np.ascontiguousarray(voxels[..., f].T).tobytes())
    ds.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    ds.PixelData = b"".join(pixels)
    file.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(file, enforce_file_format=True)


def affine_ras(
    directions: tuple[Sequence[float], Sequence[float]] = OBLIQUE,
    origin: Sequence[float] = (-40.0, -30.0, 12.0),
    spacing: tuple[float, float] = (0.8, 0.6),
    step: float = 3.0,
) -> np.ndarray:
    """What the affine of such a series must be, written out by hand."""
    row, column = (np.asarray(d, dtype=float) for d in directions)
    affine = np.eye(4)
    affine[:3, 0] = row * spacing[1]
    affine[:3, 1] = column * spacing[0]
    affine[:3, 2] = np.cross(row, column) * step
    affine[:3, 3] = origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


class Plane(NamedTuple):
    """One slice: pixels ``(columns, rows)``, place in steps along the normal, and what is told."""

    pixels: np.ndarray
    at: float
    told: dict[str, Any]


def write_planes(
    folder: Path, planes: Sequence[Plane], *, step: float = 3.0, **header: Any
) -> None:
    """Write one series of axial slices, one file each, in the order given."""
    folder.mkdir(parents=True, exist_ok=True)
    uids = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2", "FrameOfReferenceUID": "1.9"}
    for number, plane in enumerate(planes):
        ds = common(plane.pixels.shape[1], plane.pixels.shape[0])
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [-10, -20, f"{5 + plane.at * step:.10g}"]
        ds.PixelSpacing, ds.SliceThickness = [0.8, 0.6], step
        for key, value in {**uids, **header, **plane.told}.items():
            setattr(ds, key, value)
        ds.PixelData = np.ascontiguousarray(plane.pixels.T).tobytes()
        ds.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)


def write_frames(file: Path, planes: Sequence[Plane], *, step: float = 3.0, **header: Any) -> None:
    """Write axial slices as the frames of one enhanced object, in the order given.

    ``told`` holds attributes by the path of their functional group, as in
    ``{"MREchoSequence.EffectiveEchoTime": 20.0}``.
    """
    ds = common(planes[0].pixels.shape[1], planes[0].pixels.shape[0], ENHANCED_MR)
    ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = "1.2.3", "1.2", "1.9"
    ds.NumberOfFrames = len(planes)
    shared = Dataset()
    _put(shared, "PlaneOrientationSequence.ImageOrientationPatient", [1, 0, 0, 0, 1, 0])
    _put(shared, "PixelMeasuresSequence.PixelSpacing", [0.8, 0.6])
    _put(shared, "PixelMeasuresSequence.SliceThickness", step)
    ds.SharedFunctionalGroupsSequence = DicomSequence([shared])
    groups = []
    for plane in planes:
        own = Dataset()
        place = [-10.0, -20.0, 5 + plane.at * step]
        _put(own, "PlanePositionSequence.ImagePositionPatient", place)
        for path, value in plane.told.items():
            _put(own, path, value)
        groups.append(own)
    ds.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    for key, value in header.items():
        setattr(ds, key, value)
    ds.PixelData = b"".join(np.ascontiguousarray(p.pixels.T).tobytes() for p in planes)
    file.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(file, enforce_file_format=True)


def _put(dataset: Dataset, path: str, value: Any) -> None:
    *sequences, name = path.split(".")
    for sequence in sequences:
        if sequence not in dataset:
            setattr(dataset, sequence, DicomSequence([Dataset()]))
        dataset = getattr(dataset, sequence)[0]
    setattr(dataset, name, value)
