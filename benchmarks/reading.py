"""What reading a scan costs beside SimpleITK alone, which checks neither lengths nor slices.

``python -m benchmarks.reading`` makes one volume, writes it in each format, and prints processor
time of ``read_scan`` and of SimpleITK, best of several, in turns within one run.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from situs.scans.read import read_scan

SHAPE = (256, 242, 120)
ROUNDS = 7


def volume() -> np.ndarray:
    """Smooth anatomy-like values with noise, ``(X, Y, Z)`` int16: packs to about half."""
    rng = np.random.default_rng(0)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij", sparse=True)
    inside = sum(g**2 for g in grid) < 0.7
    values = np.where(inside, 40 + rng.normal(0, 12, SHAPE), -1000)
    return values.astype(np.int16)


def write_dicom(folder: Path, voxels: np.ndarray) -> Path:
    """One file a slice, with as many elements as a scanner writes in the part that is read."""
    folder.mkdir()
    series, study = generate_uid(), generate_uid()
    for k in range(voxels.shape[2]):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = series, study, study
        ds.Modality, ds.PatientID, ds.InstanceNumber = "CT", "1", k + 1
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 2 * k]
        ds.PixelSpacing, ds.SliceThickness = [0.8, 0.8], 2
        ds.RescaleSlope, ds.RescaleIntercept = 1, 0
        ds.Rows, ds.Columns = voxels.shape[1], voxels.shape[0]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        for element in range(80):  # private elements, as consoles write them
            ds.add_new((0x0019, 0x1000 + element), "LO", f"value {element}")
        ds.PixelData = np.ascontiguousarray(voxels[..., k].T).tobytes()
        pydicom.dcmwrite(folder / f"{k:04d}.dcm", ds, enforce_file_format=True)
    return folder


def by_itk(path: Path) -> object:
    """SimpleITK's own reading."""
    if not path.is_dir():
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
    return sitk.GetArrayFromImage(reader.Execute())


def seconds(call: Callable[[Path], object], path: Path) -> float:
    """Processor time of one call."""
    start = time.process_time()
    call(path)
    return time.process_time() - start


def main() -> None:
    """Print one line a format."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    voxels = volume()
    image = sitk.GetImageFromArray(voxels.T)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {"DICOM": write_dicom(folder / "dicom", voxels)}
        for suffix, packed in (
            ("nii.gz", True),
            ("nii", False),
            ("nrrd", True),
            ("nrrd", False),
            ("mha", True),
            ("mha", False),
        ):
            file = folder / f"{'packed' if packed else 'plain'}.{suffix}"
            sitk.WriteImage(image, str(file), useCompression=packed)
            paths[file.name] = file
        for label, path in paths.items():
            ours, theirs = [], []
            for _ in range(ROUNDS):
                ours.append(seconds(read_scan, path))
                theirs.append(seconds(by_itk, path))
            a, b = 1e3 * min(ours), 1e3 * min(theirs)
            sys.stdout.write(f"{label:14} situs {a:6.0f} ms, SimpleITK {b:6.0f} ms: {a / b:.2f}\n")


if __name__ == "__main__":
    main()
