"""Collections in which every name, and every text of a header, is a marker."""

from __future__ import annotations

import base64
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import dicom_files
import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
from collections_made import affine_of, bodies
from pydicom.datadict import DicomDictionary
from pydicom.tag import Tag

_MARKER = re.compile(rb"mrk[0-9a-f]{5}q", re.I)
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{64,}={0,2}")
_LENGTHS = {"PN": 64, "LO": 64, "SH": 16, "LT": 64, "ST": 64, "UT": 64, "UC": 64, "AE": 16}
# Texts that say how voxels are meant, which situs reads, and groups that a writer makes itself.
_MEANT = {"PhotometricInterpretation", "Modality", "SpecificCharacterSet", "RescaleType", "Units"}


class Markers:
    """Makes markers, each once: for headers, and for names of files and folders."""

    def __init__(self) -> None:
        self.in_headers: set[str] = set()
        self.in_names: set[str] = set()

    def __call__(self) -> str:
        self.in_headers.add(marker := self._next())
        return marker

    def name(self) -> str:
        self.in_names.add(marker := self._next())
        return marker

    def _next(self) -> str:
        return f"MRK{len(self.in_headers) + len(self.in_names):05X}Q"


def texts_of_dicom() -> list[str]:
    """Keywords of DICOM's elements that hold free text, those of patients first."""
    found = [
        (keyword[:7] != "Patient", tag, keyword)
        for tag, (vr, many, _, retired, keyword) in DicomDictionary.items()
        if vr in _LENGTHS
        and many == "1"
        and keyword
        and not retired
        and keyword not in _MEANT
        and Tag(tag).group > 7
        and Tag(tag).group < 0x4000
    ]
    return [keyword for *_, keyword in sorted(found)]


def write_scans(root: Path, mark: Markers, slices: int = 12) -> Path:
    """Scans of four formats, and broken ones, below a folder; all of it marked."""
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for _ in range(4):
        image, _ = bodies(rng)
        nifti = nib.Nifti1Image(image, affine_of(rng))
        for field, room in (("descrip", 80), ("aux_file", 24), ("intent_name", 16)):
            nifti.header[field] = mark()[:room].encode()
        # Of the fields that nibabel only fills on reading.
        nifti.header["db_name"], nifti.header["data_type"] = mark().encode(), mark()[:10].encode()
        nifti.header.extensions.append(nib.nifti1.Nifti1Extension("comment", mark().encode()))
        folder = root / mark.name() / mark.name()
        folder.mkdir(parents=True)
        nib.save(nifti, folder / f"{mark.name()}.nii.gz")
    for suffix in (".nrrd", ".mha"):
        image = sitk.GetImageFromArray(bodies(rng)[0].T)
        for key in ("PatientName", "Comment", "content", "StudyDescription", "0010|0010"):
            image.SetMetaData(key, mark())
        image.SetMetaData(mark(), mark())
        sitk.WriteImage(image, root / f"{mark.name()}{suffix}")
    voxels = (bodies(rng)[0] + 100).astype(np.int16)[:, :, :slices]
    keywords = texts_of_dicom()
    folder = root / mark.name() / mark.name()
    names = [f"{mark.name()}.dcm" for _ in range(voxels.shape[2])]
    files = dicom_files.write_series(
        folder, voxels, names=names, spacing=(1.0, 1.2), step=2.0, PatientID=mark()
    )
    for file in files:
        dicom_files.edit(file, **{word: mark() for word in keywords if word != "PatientID"})
    broken = root / mark.name()
    broken.mkdir()
    (broken / f"{mark.name()}.nii.gz").write_bytes(mark().encode())
    nrrd = f"NRRD0004\n# {mark()}\ncontent: {mark()}\n\n{mark()}"
    (broken / f"{mark.name()}.nrrd").write_text(nrrd)
    (broken / f"{mark.name()}.mha").write_text(f"ObjectType = {mark()}\nComment = {mark()}\n")
    dicom_files.edit(_copied(files[0], broken / f"{mark.name()}.dcm"), PixelSpacing=None)
    return root


def _copied(file: Path, to: Path) -> Path:
    to.write_bytes(file.read_bytes())
    return to


def write_labelled(root: Path, mark: Markers, cases: int = 6) -> Path:
    """A labelled collection of plain folders whose cases are named by markers."""
    rng = np.random.default_rng(1)
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for _ in range(cases):
        name, affine = mark.name(), affine_of(rng)
        for kind, array in zip(("images", "labels"), bodies(rng), strict=True):
            nifti = nib.Nifti1Image(array, affine)
            nifti.header["descrip"] = mark().encode()
            nib.save(nifti, root / kind / f"{name}.nii.gz")
    return root


def found_in(content: bytes, deep: int = 3) -> set[str]:
    """The markers in a file's content: as they stand, packed, or in base64."""
    found = {match.decode().upper() for match in _MARKER.findall(content)}
    found |= {m.decode().upper() for m in _MARKER.findall(content.replace(b"\x00", b""))}
    for inner in _unpacked(content) if deep else ():
        found |= found_in(inner, deep - 1)
    return found


def _unpacked(content: bytes) -> Iterator[bytes]:
    if content[:2] == b"\x1f\x8b":
        yield gzip.decompress(content)
    elif content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield archive.read(name)
    else:
        for packed in _BASE64.findall(content):
            try:
                yield base64.b64decode(packed, validate=True)
            except (ValueError, zlib.error):
                continue
