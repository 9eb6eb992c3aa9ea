"""Which way slices are stacked, and how a plane lies in the patient."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from situs.geometry.stacks import orientation, stack_axis


@pytest.mark.parametrize(
    ("shape", "spacing", "axis"),
    [
        ((256, 256, 12), (1.25, 1.25, 8.0), 2),
        ((20, 320, 320), (3.0, 0.5, 0.5), 0),
        ((64, 64, 64), (1.0, 1.0, 1.0), None),
        ((64, 64, 64), (1.0, 1.0, 1.49), None),
        ((64, 64, 64), (1.0, 1.0, 1.5), 2),
        ((1, 64, 64), (1.0, 2.0, 2.0), 0),  # a single slice, however thin
        ((1, 1, 64), (1.0, 1.0, 1.0), None),  # no image at all
    ],
)
def test_slices_lie_further_apart_than_their_pixels(
    shape: tuple[int, ...], spacing: tuple[float, ...], axis: int | None
) -> None:
    assert stack_axis(shape, spacing) == axis


@pytest.mark.parametrize(
    ("normal", "name"), [((1, 0, 0), "sagittal"), ((0, -3, 0), "coronal"), ((0, 0, 2), "axial")]
)
@pytest.mark.parametrize("tilt", [0.0, 12.0, 40.0])
def test_a_tilted_plane_is_named_by_the_nearest_axis(
    normal: tuple[float, ...], name: str, tilt: float
) -> None:
    about = np.roll(np.eye(3)[np.flatnonzero(normal)[0]], 1)
    turned = Rotation.from_rotvec(np.radians(tilt) * about).apply(normal)
    found, angle = orientation(turned)
    assert found == name
    assert angle == pytest.approx(tilt, abs=1e-6)
