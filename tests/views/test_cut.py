from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from situs.geometry import Plane
from situs.views import ArraySource
from situs.views.planes import centred_plane, cut


@pytest.fixture
def source() -> ArraySource:
    rng = np.random.default_rng(0)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [10, -20, 5], degrees=True).as_matrix() * [1, 2, 3]
    affine[:3, 3] = [-20, 10, 5]
    return ArraySource(rng.normal(size=(2, 20, 16, 12)).astype(np.float32), affine)


def test_a_slice_of_the_grid_is_cut_exactly(source: ArraySource) -> None:
    for axis in range(3):
        plane = Plane.from_affine(source.affine, axis, 5, source.shape)
        image = cut(source, [plane])[0]
        assert np.abs(image - np.take(source.array, 5, axis + 1)).max() < 1e-4


def test_oblique_cuts_equal_an_independent_interpolation(source: ArraySource) -> None:
    rng = np.random.default_rng(1)
    center = source.affine[:3, :3] @ [9.5, 7.5, 5.5] + source.affine[:3, 3]
    planes = []
    for _ in range(4):
        axes = Rotation.random(random_state=rng.integers(1000)).as_matrix()
        planes.append(centred_plane(center, axes[0], axes[1], (9, 11), (0.9, 1.3)))
        assert np.allclose(planes[-1].center_mm, center)
    images = cut(source, planes)
    assert images.shape == (4, 2, 9, 11)
    inverse = np.linalg.inv(source.affine)
    for plane, image in zip(planes, images, strict=True):
        points = plane.to_mm(np.stack(np.meshgrid(np.arange(11), np.arange(9)), -1))
        vox = points @ inverse[:3, :3].T + inverse[:3, 3]
        for c in range(2):
            expected = map_coordinates(source.array[c], vox.transpose(2, 0, 1), order=1)
            assert np.abs(image[c] - expected).max() < 1e-4


def test_only_the_slab_of_a_native_slice_is_read(source: ArraySource) -> None:
    class Watched(ArraySource):
        def read(self, start, size):
            reads.append(tuple(size))
            return super().read(start, size)

    reads: list[tuple[int, ...]] = []
    watched = Watched(source.array, source.affine)
    cut(watched, [Plane.from_affine(source.affine, 2, 4, source.shape)])
    assert reads[0][2] <= 2


def test_outside_the_scan_air_goes_on(source: ArraySource) -> None:
    far = centred_plane([500, 0, 0], [0, 1, 0], [0, 0, 1], (4, 4), (1, 1))
    image = cut(source, [far])
    assert (image == np.reshape(source.background, (1, 2, 1, 1))).all()
