"""Damaged DICOM series: plain, compressed and enhanced, and how other readers read them."""

from __future__ import annotations

import gzip
import io
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import lossless_jpeg
import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
from damage import damaged
from dicom_files import (
    affine_ras,
    jpeg_2000,
    jpeg_lossless,
    noise,
    write_enhanced,
    write_series,
)
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

LPS = np.diag([-1.0, -1, 1, 1])
_SHAPE = (6, 5, 4)
_PACKED_SHAPE = (34, 33, 4)  # the JPEG 2000 encoder of GDCM fails on smaller ones
_PACKINGS = ("JPEG lossless", "JPEG 2000", "JPEG-LS", "RLE", "deflated", "none")


def dicom(rng: np.random.Generator, folder: Path) -> Path:
    """A series of slices with elements, lengths, syntaxes and sequences changed."""
    voxels = noise(_SHAPE, int(rng.integers(4)))
    files = write_series(folder / "s", voxels)
    syntax = rng.integers(5)
    for number, file in enumerate(files):
        ds = pydicom.dcmread(file)
        if syntax == 1:
            ds.compress(RLELossless, generate_instance_uid=False)
        elif syntax == 2:
            ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        elif syntax == 3:
            ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
            ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
        if number == 0 or rng.random() < 0.2:
            for _ in range(rng.integers(3)):
                change_element(rng, ds)
        endian = syntax != 3
        written = io.BytesIO()
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pydicom.dcmwrite(
                written, ds, implicit_vr=syntax == 2, little_endian=endian, force_encoding=True
            )
            file.write_bytes(written.getvalue())
        if number == 0 and rng.random() < 0.4:
            raw = file.read_bytes()
            raw = damaged(rng, raw) if rng.random() < 0.5 else lengths_changed(rng, raw)
            file.write_bytes(gzip.compress(raw) if rng.random() < 0.1 else raw)
    return folder / "s"


def change_element(rng: np.random.Generator, ds: Dataset) -> None:
    """Leave out, empty or change one element, or hang a deep sequence in."""
    elements = [e for e in ds if e.keyword not in ("", "PixelData")]
    element = elements[rng.integers(len(elements))]
    how = rng.integers(5)
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == 0:
            del ds[element.tag]
        elif how == 1:
            element.value = None
        elif how == 2 and element.VR in ("US", "SS", "DS", "IS", "FD", "UL"):
            old = element.value
            odd = float(rng.choice([0, 1, 2, 7, 16, 65535, -1, 1e6, 0.001]))
            odd = int(odd) if element.VR not in ("DS", "FD") else odd
            element.value = [odd, *list(old)[1:]] if isinstance(old, list) else odd
        elif how == 3:
            nested = Dataset()
            nested.PatientID = "deep"
            for _ in range(int(rng.choice([1, 5, 60]))):
                outer = Dataset()
                outer.ReferencedImageSequence = [nested]
                nested = outer
            ds.ReferencedImageSequence = [nested]
        else:
            extra = {"NumberOfFrames": 3, "RescaleSlope": 2, "RescaleIntercept": -7}
            extra |= {"PixelPaddingValue": 0, "PhotometricInterpretation": "MONOCHROME1"}
            extra |= {"SmallestImagePixelValue": 1, "BitsStored": 12, "HighBit": 11}
            name = str(rng.choice(list(extra)))
            setattr(ds, name, extra[name])


def lengths_changed(rng: np.random.Generator, raw: bytes) -> bytes:
    """The declared length of one explicit element made another."""
    spots = [m.start(1) for m in re.finditer(rb"(?:US|DS|IS|UI|CS|LO|SH|DA|TM)(..)", raw, re.S)]
    if not spots:
        return raw
    place = int(rng.choice(spots))
    length = int(rng.choice([0, 1, 3, 2**15, 2**16 - 1, 8, 200]))
    return raw[:place] + struct.pack("<H", length) + raw[place + 2 :]


def packed(rng: np.random.Generator, folder: Path) -> Path:
    """A compressed series, MONOCHROME1 or 2, with elements and compressed bytes changed."""
    grey = f"MONOCHROME{rng.integers(1, 3)}"
    files = write_series(
        folder / "s", noise(_PACKED_SHAPE, int(rng.integers(4))), PhotometricInterpretation=grey
    )
    packing = str(rng.choice(_PACKINGS[:-1]))
    for file in files:
        pack(file, packing)
    for file in files[: int(rng.integers(3))]:
        raw = file.read_bytes()
        how = rng.integers(4)
        if how == 0:
            raw = damaged(rng, raw)
        elif how == 1:
            raw = lengths_changed(rng, raw)
        elif how == 2:
            place = raw.find(b"\xe0\x7f\x10\x00")
            raw = raw[:place] + damaged(rng, raw[place:])
        else:
            ds = pydicom.dcmread(file)
            change_element(rng, ds)
            with suppress(Exception), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                written = io.BytesIO()
                ds.save_as(written)
                raw = written.getvalue()
        file.write_bytes(gzip.compress(raw) if rng.random() < 0.1 else raw)
    return folder / "s"


def pack(file: Path, packing: str) -> None:
    """Write the pixels of a file anew in one of the compressed transfer syntaxes."""
    if packing == "JPEG lossless":
        jpeg_lossless(file)
    elif packing == "JPEG 2000":
        jpeg_2000(file)
    elif packing != "none":
        ds = pydicom.dcmread(file)
        if packing == "deflated":
            ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        else:
            syntax = RLELossless if packing == "RLE" else JPEGLSLossless
            if packing == "JPEG-LS":  # its encoder takes no signed numbers
                ds.PixelRepresentation = 0
            ds.compress(syntax, generate_instance_uid=False)
        ds.save_as(file, enforce_file_format=True)


def enhanced(rng: np.random.Generator, folder: Path) -> Path:
    """Enhanced objects, frames in any order, with elements and functional groups changed."""
    times = int(rng.choice([1, 1, 2]))
    voxels = np.concatenate([noise(_SHAPE, v) for v in range(times)], axis=2)
    order = rng.permutation(voxels.shape[2]).tolist() if rng.random() < 0.5 else None
    file = folder / "s" / "a.dcm"
    write_enhanced(file, voxels, order=order, times=times)
    pack(file, str(rng.choice(["RLE", "JPEG lossless", "none", "none"])))
    ds = pydicom.dcmread(file)
    for _ in range(rng.integers(3)):
        change_element(rng, ds)
        place = ds
        for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
            if rng.random() < 0.6 and place.get(name):
                place = place[name].value[rng.integers(len(place[name].value))]
        with suppress(Exception):
            change_nested(rng, ds, place)
    written = io.BytesIO()
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(written)
        file.write_bytes(written.getvalue())
    if rng.random() < 0.3:
        raw = file.read_bytes()
        file.write_bytes(damaged(rng, raw) if rng.random() < 0.5 else lengths_changed(rng, raw))
    return folder / "s"


def change_nested(rng: np.random.Generator, ds: Dataset, place: Dataset) -> None:
    """Change, leave out, double or swap an item of the functional groups."""
    how = rng.integers(4)
    frames = ds.PerFrameFunctionalGroupsSequence.value
    if how == 0:
        del frames[int(rng.integers(len(frames)))]
    elif how == 1:
        frames.append(frames[int(rng.integers(len(frames)))])
    elif how == 2:
        groups = [e for e in place if e.VR == "SQ" and e.value]
        change_element(rng, groups[rng.integers(len(groups))].value[0])
    else:
        groups = [e for e in place if e.VR == "SQ"]
        del place[groups[rng.integers(len(groups))].tag]


def dicom_readers(path: Path, scan) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What was written; pydicom slice by slice in the order of their places; GDCM through ITK.

    GDCM is asked last: it looks for the end of some files for ever.
    """
    # No other reads an object whose transfer syntax is lost: then it is what was written.
    for seed in range(4):
        for shape in (_SHAPE, _PACKED_SHAPE):
            yield noise(shape, seed)[None], affine_ras()
    with suppress(Exception):
        yield _by_pydicom(path)
    with suppress(Exception):
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
        image = reader.Execute()
        affine = np.eye(4)
        affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
        yield sitk.GetArrayFromImage(image).T[None], LPS @ affine


def _pixels(ds: Dataset) -> np.ndarray:
    """Stored values; of lossless JPEG, of which pydicom has no decoder, by plain reading."""
    defaults = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
    for name, value in (defaults | {"BitsStored": ds.BitsAllocated}).items():
        if not ds.get(name):
            setattr(ds, name, value)
    if ds.file_meta.TransferSyntaxUID != JPEGLosslessSV1:
        return ds.pixel_array
    stream = b"".join(list(pydicom.encaps.generate_fragments(ds.PixelData))[1:])
    values = lossless_jpeg.decode(stream).astype(np.uint16)
    if values.shape != (ds.Rows, ds.Columns) or ds.BitsAllocated != 16:
        raise ValueError
    return values.astype(np.int16) if ds.PixelRepresentation else values


def _by_pydicom(path: Path) -> tuple[np.ndarray, np.ndarray]:
    slices, known = [], None
    for file in sorted(path.iterdir()):
        with suppress(Exception):
            raw = file.read_bytes()
            raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
            ds = pydicom.dcmread(io.BytesIO(raw), force=True)
            place = np.array(ds.ImagePositionPatient, float)
            turn = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
            values = _pixels(ds).astype(float)
            values = values * float(ds.get("RescaleSlope") or 1) + float(
                ds.get("RescaleIntercept") or 0
            )
            normal = np.cross(*turn)
            slices.append((float(place @ normal), place, values.T, turn, ds.PixelSpacing))
    slices.sort(key=lambda s: s[0])
    _, place, _, turn, spacing = slices[0]
    step = (slices[-1][1] - place) / (len(slices) - 1)
    affine = np.eye(4)
    affine[:3, :4] = np.column_stack([turn[0] * spacing[1], turn[1] * spacing[0], step, place])
    assert known is None
    return np.stack([s[2] for s in slices], -1)[None], LPS @ affine


def enhanced_readers(path: Path, scan) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """pydicom by frame: time (of the header, or by the order of frames), place; or as written."""
    for timed in (True, False):
        with suppress(Exception):
            yield _by_frames(path, timed)
    for times in (1, 2):
        yield np.stack([noise(_SHAPE, v) for v in range(times)]), affine_ras()


def _by_frames(path: Path, timed: bool) -> tuple[np.ndarray, np.ndarray]:
    ds = pydicom.dcmread(path / "a.dcm", force=True)
    shared = ds.SharedFunctionalGroupsSequence[0]
    stored = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns).astype(float)

    def group(own: Dataset, name: str) -> Dataset:
        return (own.get(name) or shared.get(name) or [Dataset()])[0]

    frames = []
    for own, values in zip(ds.PerFrameFunctionalGroupsSequence, stored, strict=False):
        place = np.array(group(own, "PlanePositionSequence").ImagePositionPatient, float)
        turn = np.array(group(own, "PlaneOrientationSequence").ImageOrientationPatient, float)
        scale = group(own, "PixelValueTransformationSequence")
        measured = values * float(scale.get("RescaleSlope") or 1) + float(
            scale.get("RescaleIntercept") or 0
        )
        along = round(float(place @ np.cross(*turn.reshape(2, 3))), 3)
        time = group(own, "FrameContentSequence").get("TemporalPositionIndex") or 0
        time = time if timed else sum(f[1] == along for f in frames)
        spacing = group(own, "PixelMeasuresSequence").PixelSpacing
        frames.append((time, along, place, turn.reshape(2, 3), measured.T, spacing))
    frames.sort(key=lambda f: f[:2])
    times = len({f[0] for f in frames})
    count = len(frames) // times
    _, _, place, turn, _, spacing = frames[0]
    step = (frames[count - 1][2] - place) / (count - 1)
    affine = np.eye(4)
    affine[:3, :4] = np.column_stack([turn[0] * spacing[1], turn[1] * spacing[0], step, place])
    values = [np.stack([f[4] for f in frames[v * count :][:count]], -1) for v in range(times)]
    return np.stack(values), LPS @ affine
