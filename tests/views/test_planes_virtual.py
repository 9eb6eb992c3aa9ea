from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from situs.geometry import Plane
from situs.views import ArraySource
from situs.views.inside import Room
from situs.views.planes import cut_planes
from situs.views.planes_virtual import (
    Anatomy,
    VirtualConfig,
    VirtualRole,
    anatomy,
    draw_slices,
    in_plane_axes,
    prescribed_planes,
)
from situs.views.scan_grid import grid_of
from situs.views.slices import Pose, PoseConfig, ViewGrid, draw_pose, draw_poses, posed


def coordinates(shape: tuple[int, int, int], affine: np.ndarray) -> ArraySource:
    """A scan whose three channels say where each voxel lies, in mm."""
    vox = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    mm = np.einsum("ij,jxyz->ixyz", affine[:3, :3], vox) + affine[:3, 3, None, None, None]
    return ArraySource(mm.astype(np.float32), affine)


def blob(center_mm: np.ndarray, shape: tuple[int, int, int] = (40, 50, 30)) -> ArraySource:
    affine = np.diag([1.0, 1.0, 1.5, 1.0])
    mm = coordinates(shape, affine).array - np.asarray(center_mm)[:, None, None, None]
    inside = (mm[0] / 10) ** 2 + (mm[1] / 14) ** 2 + (mm[2] / 8) ** 2 < 1
    return ArraySource(inside[None].astype(np.float32), affine)


def test_pixels_show_the_place_that_their_plane_says() -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [5, 10, -8], degrees=True).as_matrix() * [1, 1.2, 2]
    affine[:3, 3] = [-15, 4, 9]
    source = coordinates((40, 40, 30), affine)
    place = anatomy(np.ones((1, 40, 40, 30), np.float32), affine)
    rng = np.random.default_rng(0)
    for _ in range(5):
        base = draw_slices(place, VirtualConfig(extent=0.4), 1, rng, grid_of(source).room).bases
        plane = posed(base, base.center_mm, ViewGrid((12, 10), 0.8), [Pose(0.3, 1.1)])[0]
        image = cut_planes(source, [plane])[0]
        pixels = np.stack(np.meshgrid(np.arange(10), np.arange(12)), -1)
        assert np.abs(image.transpose(1, 2, 0) - plane.to_mm(pixels)).max() < 1e-3


def test_the_prescription_follows_the_anatomy() -> None:
    roles = list(VirtualConfig().roles.values())
    first = anatomy(blob(np.array([18, 24, 20])).array, blob(np.zeros(3)).affine)
    second = anatomy(blob(np.array([22, 21, 26])).array, blob(np.zeros(3)).affine)
    shift = np.array([4, -3, 6])
    assert np.allclose(second.center_mm - first.center_mm, shift, atol=0.3)
    for a, b in zip(prescribed_planes(first, roles), prescribed_planes(second, roles), strict=True):
        assert np.allclose(a.normal_mm, b.normal_mm)
        assert abs(b.distance_mm(a.origin_mm + shift)) < 0.6


def test_default_planes_are_double_oblique_and_meet_at_right_angles() -> None:
    normals = np.array([r.normal for r in VirtualConfig().roles.values()])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    assert np.abs(normals @ normals.T - np.eye(3)).max() < 2e-3
    assert (np.sort(np.abs(normals), axis=1)[:, :2] > 0.1).all()


def test_stacks_run_through_the_anatomy_and_tilt_within_bounds() -> None:
    source = blob(np.array([20, 24, 22]))
    place = anatomy(source.array, source.affine)
    config = VirtualConfig(tilt_deg=12, extent=1.0)
    rng = np.random.default_rng(1)
    normals = [np.array(r.normal) for r in config.roles.values()]
    drawn = draw_slices(place, config, 60, rng, grid_of(source).room)
    for base, role, location in zip(*drawn, strict=True):
        angle = np.degrees(
            np.arccos(base.normal_mm @ normals[role] / np.linalg.norm(normals[role]))
        )
        assert angle <= 12 + 1e-9
        low, high = place.reach_mm(base.normal_mm)
        along = (base.center_mm - place.center_mm) @ base.normal_mm
        assert along == pytest.approx(low + location * (high - low))


@pytest.mark.parametrize("points", [1, 2, 40, 5000])
def test_ends_of_the_anatomy_are_quantiles(points: int) -> None:
    rng = np.random.default_rng(points)
    # In order along an axis, as the voxels of a scan are, and with many equal ones.
    mm = np.sort(rng.normal(size=(points, 3)).round(1), axis=0)
    place = Anatomy(mm.mean(0), mm)
    normals = np.concatenate([np.eye(3), rng.normal(size=(2, 3))]).reshape(5, 1, 3)
    along = normals @ (mm - place.center_mm).T
    expected = np.moveaxis(np.quantile(along, [0.02, 0.98], axis=-1), 0, -1)
    assert np.allclose(place.reach_mm(normals), expected, atol=1e-12)


def test_offset_is_a_share_of_the_way_to_the_end() -> None:
    source = blob(np.array([20, 24, 22]))
    place = anatomy(source.array, source.affine)
    at = [
        prescribed_planes(place, [VirtualRole(normal=(0, 2, 0), offset=o)])[0].origin_mm[1]
        for o in (-1.0, 0.0, 0.5, 1.0)
    ]
    low, high = place.reach_mm([0, 1, 0])
    assert np.allclose(np.array(at) - at[1], [low, 0, high / 2, high])


@pytest.mark.parametrize("normal", [(1, 0, 0), (0, -1, 0), (0, 0, 1), (0.3, -0.5, 0.8)])
def test_in_plane_axes_are_right_handed(normal: tuple[float, float, float]) -> None:
    row, column = in_plane_axes(normal)
    unit = np.array(normal) / np.linalg.norm(normal)
    plane = Plane(np.zeros(3), row, column, (2, 2), (1, 1))
    assert np.allclose(plane.normal_mm, unit)


def test_a_constant_scan_still_has_an_anatomy() -> None:
    place = anatomy(np.zeros((1, 5, 5, 5), np.float32), np.eye(4))
    assert np.allclose(place.center_mm, 2)


def test_a_disc_reaches_as_far_as_its_rim() -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [20, -30, 50], degrees=True).as_matrix()
    affine[:3, :3] *= [1.0, 1.5, 2.0]
    room, rng, radius = Room.of(affine, (30, 24, 20)), np.random.default_rng(0), 7.0
    axes = Rotation.random(4, random_state=1).as_matrix()[:, :2]
    middles = affine[:3, :3] @ [15, 12, 10] + rng.normal(0, 8, (4, 3, 3))
    within = rng.normal(0, 8, (4, 5, 2))
    got = room.slack_mm(middles, within, axes, radius)
    angle = np.linspace(0, 2 * np.pi, 2000)
    rim = radius * np.stack([np.cos(angle), np.sin(angle)], -1)
    to_vox = np.linalg.inv(affine)[:3, :3]
    for k, place, disc in np.ndindex(4, 3, 5):
        vox = (middles[k, place] + (within[k, disc] + rim) @ axes[k]) @ to_vox.T
        away = np.minimum(vox, np.array([29, 23, 19]) - vox) * [1.0, 1.5, 2.0]
        assert got[k, place, disc] == pytest.approx(away.min(), abs=1e-3)


@pytest.mark.parametrize("mirror", [0.0, 0.5])
def test_poses_drawn_together_are_those_drawn_one_by_one(mirror: float) -> None:
    config = PoseConfig(mirror=mirror)
    one, all_at_once = np.random.default_rng(4), np.random.default_rng(4)
    expected = [draw_pose(config, one) for _ in range(9)]
    assert draw_poses(config, 9, all_at_once) == expected
    assert one.random() == all_at_once.random()
