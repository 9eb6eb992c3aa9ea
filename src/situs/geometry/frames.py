"""The two frames of the patient: DICOM and ITK write LPS, NIfTI and situs RAS."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_TURN = np.array([-1.0, -1.0, 1.0])


def turn_lps_ras(vectors: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Turn points or directions ``(…, 3)`` from LPS to RAS, or from RAS to LPS.

    Both frames have the same origin, and the turn by 180° about the long axis undoes itself.
    """
    return np.asarray(vectors, dtype=np.float64) * _TURN


def turn_affine_lps_ras(affine: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Turn an affine ``(4, 4)`` from voxels to LPS mm into one to RAS mm, or the other way."""
    turned: npt.NDArray[np.float64] = np.diag([*_TURN, 1.0]) @ np.asarray(affine, dtype=np.float64)
    return turned
