"""LPS and RAS, against SimpleITK's and nibabel's own accounts of one grid."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813

from situs.geometry.frames import turn_affine_lps_ras, turn_lps_ras


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
