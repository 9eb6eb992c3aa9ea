"""LPS and RAS, against SimpleITK's and nibabel's own accounts of one grid."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
from highdicom.spatial import PixelToReferenceTransformer
from pydicom.dataset import Dataset

from situs.geometry import Plane
from situs.geometry.frames import turn_affine_lps_ras, turn_lps_ras
from situs.geometry.planes import near_parallel


def test_a_voxel_lies_where_itk_and_nibabel_say(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.sign(np.linalg.det(rotation)) * [1.0, 2.0, 3.0]
    affine[:3, 3] = [10, -20, 30]
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), affine), tmp_path / "a.nii")
    image = sitk.ReadImage(str(tmp_path / "a.nii"))
    voxel = (3, 1, 4)
    lps = np.array(image.TransformIndexToPhysicalPoint(voxel))
    ras = (affine @ [*voxel, 1])[:3]
    np.testing.assert_allclose(turn_lps_ras(lps), ras, atol=1e-4)
    np.testing.assert_allclose((turn_affine_lps_ras(affine) @ [*voxel, 1])[:3], lps, atol=1e-4)
    np.testing.assert_array_equal(turn_affine_lps_ras(turn_affine_lps_ras(affine)), affine)


def test_a_pixel_of_a_plane_lies_where_highdicom_says() -> None:
    rng = np.random.default_rng(1)
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    dataset = Dataset()
    dataset.ImagePositionPatient = [-12.5, 40.0, 7.25]
    dataset.ImageOrientationPatient = [float(f"{v:.9f}") for v in rotation[:, :2].T.ravel()]
    dataset.PixelSpacing = [0.7, 1.9]
    dataset.Rows, dataset.Columns = 32, 48
    plane = Plane.from_dicom(dataset)
    theirs = PixelToReferenceTransformer(
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing
    )
    pixels = rng.integers(0, [48, 32], size=(20, 2))  # column, row
    between_rows, between_columns = plane.spacing
    ours = (
        plane.origin_mm
        + pixels[:, :1] * between_columns * plane.row_mm
        + pixels[:, 1:] * between_rows * plane.column_mm
    )
    np.testing.assert_allclose(turn_lps_ras(theirs(pixels)), ours, atol=1e-5)


def test_the_centre_of_a_plane_is_the_mean_of_its_corners() -> None:
    plane = Plane.from_affine(np.diag([1.0, 2.0, 3.0, 1.0]), axis=2, index=4, shape=(9, 7, 5))
    rows, columns = plane.shape
    corners = plane.to_mm(
        np.array([[0, 0], [columns - 1, 0], [0, rows - 1], [columns - 1, rows - 1]])
    )
    np.testing.assert_allclose(plane.center_mm, corners.mean(axis=0))
    assert near_parallel(plane, plane, 1.0)
    across = Plane.from_affine(np.eye(4), axis=0, index=0, shape=(9, 7, 5))
    assert not near_parallel(plane, across, 89.0)
