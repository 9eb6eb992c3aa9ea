from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from situs.geometry import Plane
from situs.views import ArraySource
from situs.views.decoded import Kept, read_crop
from situs.views.planes import centred_plane, cut_discs, cut_planes
from situs.views.slices import Pose, ViewGrid, posed


@pytest.fixture
def source() -> ArraySource:
    rng = np.random.default_rng(0)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [10, -20, 5], degrees=True).as_matrix() * [1, 2, 3]
    affine[:3, 3] = [-20, 10, 5]
    return ArraySource(rng.normal(size=(2, 20, 16, 12)).astype(np.float32), affine)


@pytest.fixture(params=[False, True], ids=["kept decoded", "read in boxes"])
def large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether scans are too large to be kept decoded."""
    if request.param:
        monkeypatch.setattr("situs.views.decoded._LARGEST", 0)
    return request.param


def middle_mm(source: ArraySource) -> np.ndarray:
    return source.affine[:3, :3] @ [9.5, 7.5, 5.5] + source.affine[:3, 3]


def test_a_slice_of_the_grid_is_cut_exactly(source: ArraySource) -> None:
    for axis in range(3):
        plane = Plane.from_affine(source.affine, axis, 5, source.shape)
        image = cut_planes(source, [plane])[0]
        assert np.abs(image - np.take(source.array, 5, axis + 1)).max() < 1e-4


def test_oblique_cuts_equal_an_independent_interpolation(source: ArraySource) -> None:
    rng = np.random.default_rng(1)
    center = middle_mm(source)
    planes = []
    for _ in range(4):
        axes = Rotation.random(random_state=rng.integers(1000)).as_matrix()
        planes.append(centred_plane(center, axes[0], axes[1], (9, 11), (0.9, 1.3)))
        assert np.allclose(planes[-1].center_mm, center)
    images = cut_planes(source, planes)
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
    cut_planes(watched, [Plane.from_affine(source.affine, 2, 4, source.shape)])
    assert reads[0][2] <= 2


def test_outside_the_scan_air_goes_on(source: ArraySource) -> None:
    far = centred_plane([500, 0, 0], [0, 1, 0], [0, 0, 1], (4, 4), (1, 1))
    image = cut_planes(source, [far])
    assert (image == np.reshape(source.background, (1, 2, 1, 1))).all()


class Remote:
    """A scan that is not in memory, and counts what is read of it."""

    def __init__(self, scan: ArraySource) -> None:
        self.scan = scan
        self.reads: list[tuple[int, ...]] = []

    def __getattr__(self, name: str):
        return getattr(self.scan, name)

    def read(self, start, size):
        self.reads.append(tuple(size))
        return self.scan.read(start, size)


def test_cuts_in_and_beyond_the_scan_equal_an_independent_interpolation(
    source: ArraySource, large: bool
) -> None:
    """Slices of the grid, oblique planes and all mixed; what lies outside is air."""
    remote = Remote(source)
    center = middle_mm(source)
    planes = []
    for seed in range(3):
        axes = Rotation.random(random_state=seed).as_matrix()
        planes.append(centred_plane(center + seed, axes[0], axes[1], (40, 50), (0.9, 1.3)))
        base = Plane.from_affine(source.affine, seed, 3 + seed, source.shape)
        turned = Pose(0.3 * seed, 1.2, (0.3, -0.1))
        planes += posed([base], [base.center_mm], ViewGrid((40, 50), 1.1), [turned])
    images = cut_planes(remote, planes)
    padded = source.read((-2, -2, -2), [n + 4 for n in source.shape])
    inverse = np.linalg.inv(source.affine)
    seen_air = 0
    for plane, image in zip(planes, images, strict=True):
        points = plane.to_mm(np.stack(np.meshgrid(np.arange(50), np.arange(40)), -1))
        vox = (points @ inverse[:3, :3].T + inverse[:3, 3]).transpose(2, 0, 1) + 2
        for c in range(2):
            expected = map_coordinates(padded[c].astype(float), vox, order=1, mode="nearest")
            assert np.abs(image[c] - expected).max() < 1e-4
            seen_air += (image[c] == source.background[c]).sum()
    assert seen_air > 100
    again = cut_planes(remote, planes)
    np.testing.assert_array_equal(images, again)
    # A small scan is read once for good; of a large one no more than planes need, at each call.
    assert (len(remote.reads) == 1) is not large


@pytest.mark.usefixtures("large")
def test_a_disc_shows_what_the_whole_view_shows_there(source: ArraySource) -> None:
    """Discs within a view, across its border, larger than it, and wholly beside it."""
    center = middle_mm(source)
    axes = [Rotation.random(random_state=seed).as_matrix() for seed in range(5)]
    zooms = np.array([1, 0.8, 1.2, 1.5, 1])  # a window is of one size for all
    planes = [
        centred_plane(center, a[0], a[1], (40, 50), (0.7 * zoom, 0.9 * zoom))
        for a, zoom in zip(axes, zooms, strict=True)
    ]
    ways = [(0, 0), (20, 0), (-5, 13), (-22, -14), (200, 0)]
    middles = [center + x * a[0] + y * a[1] for (x, y), a in zip(ways, axes, strict=True)]
    whole, seen = cut_planes(Remote(source), planes), 0
    pixels = np.stack(np.meshgrid(np.arange(50), np.arange(40)), -1)
    for radius in (6.0, 17.0, 60.0):
        images = cut_discs(Remote(source), planes, middles, radius)
        for plane, middle, image, expected in zip(planes, middles, images, whole, strict=True):
            away = np.linalg.norm(plane.to_mm(pixels) - middle, axis=-1)
            assert np.allclose(image[:, away < radius], expected[:, away < radius], atol=1e-4)
            assert (source.background == image[:, away > radius].T).all()
            seen += (away < radius).sum()
    assert seen > 5000


def test_near_slices_of_a_large_scan_share_a_read(
    source: ArraySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("situs.views.decoded._LARGEST", 0)
    remote = Remote(source)
    cut_planes(
        remote, [Plane.from_affine(source.affine, 2, i, source.shape) for i in (2, 3, 10, 11)]
    )
    assert [size[2] for size in remote.reads] == [2, 2]


def test_what_is_kept_of_scans_is_bounded_and_goes_with_them(source: ArraySource) -> None:
    kept: Kept[np.ndarray] = Kept(30, len)
    scans = [Remote(source) for _ in range(4)]
    made: list[object] = []

    def make(scan: object) -> np.ndarray:
        made.append(scan)
        return np.zeros(10)

    for scan in (*scans, scans[3], scans[1]):
        kept.of(scan, make)
    assert made == scans
    kept.of(scans[0], make)  # the first one had to go
    assert made == [*scans, scans[0]]
    del scan
    while scans:
        made.clear()
        scans.pop()
    assert kept._bytes == 0


def test_a_crop_of_a_decoded_scan_is_what_the_scan_reads(source: ArraySource) -> None:
    class Stored:
        """A scan that is not in memory."""

        reads = 0

        def __getattr__(self, name: str) -> object:
            return getattr(source, name)

        def read(self, start, size):
            self.reads += 1
            return source.read(start, size)

    stored = Stored()
    for start in ((0, 0, 0), (-2, 3, 4), (17, 12, -5)):
        expected = source.read(start, (4, 5, 6))
        np.testing.assert_array_equal(read_crop(stored, start, (4, 5, 6)), expected)
    assert stored.reads == 1
