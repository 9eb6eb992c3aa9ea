"""Every scan of a folder read twice: by situs, and by nibabel or by pydicom with a few lines.

``python tests/support/same_voxels.py ~/scans seen.csv`` compares all voxels at the same physical
points, NIfTI with nibabel and DICOM slice by slice with the file that each came from, and writes a
line a scan. Run again, it goes on where it was stopped.
"""

from __future__ import annotations

import csv
import logging
import sys
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom

from situs.errors import ScanRefused
from situs.scans.read import read_scan
from situs.scans.readers.dicom_headers import read_series
from situs.scans.scan import Scan

CLOSE_VOX = 0.01
TURN = np.diag([-1.0, -1, 1, 1])  # RAS to LPS


def nifti(path: Path) -> str:
    """``same``, or what differs from nibabel; a refusal by its code."""
    try:
        scan = read_scan(path, volume="all", planes=True)
    except ScanRefused as error:
        return f"refused {error.reason}"
    image = nib.load(path)
    other = np.asanyarray(image.dataobj)
    other = other.reshape(*other.shape[:3], -1)
    return values_at_same_points(scan, np.moveaxis(other, 3, 0), np.asarray(image.affine))


def values_at_same_points(scan: Scan, other: np.ndarray, affine: np.ndarray) -> str:
    """Compare ``(V, X, Y, Z)`` with a scan, each voxel where its own affine puts it."""
    between = np.linalg.inv(affine) @ scan.affine  # from situs's voxels to the other's
    axes = np.rint(between)
    shape = np.array(scan.array.shape[1:])
    corners = np.array(np.meshgrid(*([0, n - 1] for n in shape), indexing="ij")).reshape(3, -1)
    whole = np.vstack([corners, np.ones(corners.shape[1])])
    if np.abs((between - axes) @ whole).max() > CLOSE_VOX:
        return "other places"
    grid = np.indices(shape).reshape(3, -1)
    index = (axes[:3, :3] @ grid + axes[:3, 3:]).astype(int)
    if other.shape[0] != scan.array.shape[0] or sorted(other.shape[1:]) != sorted(shape):
        return "another shape"
    if index.min() < 0 or (index.max(1) >= other.shape[1:]).any():
        return "other places"
    found = other[:, index[0], index[1], index[2]].reshape(scan.array.shape)
    close = np.allclose(scan.array, found, rtol=1e-6, atol=1e-6 * np.abs(found).max())
    return "same" if close else "other values"


def dicom(folder: Path, files: list[Path]) -> str:
    """``same``, or how a series differs from its files, each slice where its header puts it."""
    try:
        scan = read_scan(folder, volume="all", series=read_series(files[0]).uid, planes=True)
    except ScanRefused as error:
        return f"refused {error.reason}"
    to_voxel = np.linalg.inv(TURN @ scan.affine)
    seen: Counter[tuple[int, int]] = Counter()
    for file in files:
        ds = pydicom.dcmread(file)
        rows, columns = ds.pixel_array.shape
        turn = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
        first = np.array(ds.ImagePositionPatient, float)
        far = first + turn[0] * float(ds.PixelSpacing[1]) * (columns - 1)
        far = far + turn[1] * float(ds.PixelSpacing[0]) * (rows - 1)
        place = (to_voxel @ np.array([[*first, 1], [*far, 1]]).T)[:3].T
        k = round(place[0, 2])
        wanted = [[0, 0, k], [columns - 1, rows - 1, k]]
        # Headers round positions: a tenth of a voxel, as situs allows them to be off a line.
        if np.abs(place - wanted).max() > 0.1:
            return "other places"
        values = ds.pixel_array * float(ds.get("RescaleSlope", 1))
        values = values + float(ds.get("RescaleIntercept", 0))
        held = [v for v, a in enumerate(scan.array) if np.allclose(a[..., k].T, values, rtol=1e-6)]
        if not held:
            return "other values"
        seen.update((v, k) for v in held)
    count = scan.array.shape[0] * scan.array.shape[3]
    return "same" if len(seen) == count == len(files) else "other slices"


def main() -> None:
    """Compare what is not yet in the table, and print the counts."""
    root, table = Path(sys.argv[1]).expanduser(), Path(sys.argv[2])
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    done = dict(csv.reader(table.open())) if table.exists() else {}
    jobs: dict[str, tuple[Path, list[Path]]] = {}
    series: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        name = file.name.lower()
        if name.endswith((".nii", ".nii.gz")):
            jobs[str(file.relative_to(root))] = (file, [])
        elif pydicom.misc.is_dicom(file):
            uid = str(pydicom.dcmread(file, stop_before_pixels=True).get("SeriesInstanceUID", ""))
            series[file.parent, uid].append(file)
    for (folder, uid), files in series.items():
        jobs[f"{folder.relative_to(root)} …{uid[-12:]}"] = (folder, files)
    with table.open("a", newline="") as stream:
        for label, (path, files) in jobs.items():
            if label not in done:
                done[label] = dicom(path, files) if files else nifti(path)
                csv.writer(stream).writerow([label, done[label]])
                stream.flush()
    for kind, wanted in (("NIfTI", False), ("DICOM series", True)):
        counts = Counter(done[label] for label, job in jobs.items() if bool(job[1]) is wanted)
        sys.stdout.write(f"{kind}: {dict(counts.most_common())}\n")


if __name__ == "__main__":
    main()
