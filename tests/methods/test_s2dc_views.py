from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from situs.config import validate
from situs.errors import ConfigError
from situs.geometry import map_tokens, match_targets
from situs.methods.s2dc.config import MotionConfig, S2dcConfig
from situs.methods.s2dc.motion import (
    Back,
    draw_motion,
    moved_copies,
    moved_copy,
    moved_crops,
    to_crops,
)
from situs.methods.s2dc.views import (
    from_crops,
    sample_region,
    token_geometry,
)
from situs.views import ArraySource

torch.set_num_threads(1)
STILL = {"rotation_deg": 0, "scale": (1, 1), "translation": 0}
PLAIN = {"probability": 0}
SEEDS = st.integers(0, 2**32 - 1)
SPACINGS = st.tuples(*[st.sampled_from([0.7, 1.0, 2.5])] * 3)
few = settings(max_examples=25, deadline=None)


def one_bright_voxel(
    shape: tuple[int, ...], voxel: NDArray[np.int64], spacing: tuple[float, ...]
) -> ArraySource:
    array = np.zeros((1, *shape), dtype=np.float32)
    array[(0, *voxel)] = 1
    return ArraySource(array, np.diag([*spacing, 1.0]))


@few
@given(SEEDS, SPACINGS, st.sampled_from(["volume", "sagittal", "coronal", "axial"]))
def test_image_and_centres_move_together(
    seed: int, spacing: tuple[float, float, float], plane: str
) -> None:
    rng = np.random.default_rng(seed)
    start, size = np.array([3, 1, 5]), np.array([20, 24, 18])
    # Small enough a motion that the voxel stays in the region.
    config = MotionConfig(plane=plane, translation=0.2, scale=(0.9, 1.2), rotation_deg=30)  # type: ignore[arg-type]
    affine_mm = draw_motion(config, np.full(3, 6.0), rng)
    middle = (size - 1) / 2
    voxel = np.round(middle + rng.uniform(-3, 3, 3)).astype(int)
    source = one_bright_voxel((30, 30, 30), voxel + start, spacing)

    moved = moved_copy(source, start.tolist(), size.tolist(), affine_mm)[0]

    expected_mm = affine_mm @ np.r_[(voxel - middle) * spacing, 1]
    expected = expected_mm[:3] / spacing + middle
    inside = ((expected > 1) & (expected < size - 2)).all()
    if not inside:
        return
    place = np.stack(np.indices(size), -1)
    centroid = (place * moved[..., None]).sum((0, 1, 2)) / moved.sum()
    assert np.abs(centroid - expected).max() < 0.5


@few
@given(SEEDS, SPACINGS)
def test_token_geometry_agrees_with_the_image(
    seed: int, spacing: tuple[float, float, float]
) -> None:
    """A token filled with light lights up its counterpart, wherever the region lies."""
    config = validate(
        S2dcConfig,
        {
            "grid": (2, 2, 2),
            "crop_size": (12, 12, 12),
            "intensity": PLAIN,
            "weights": {"global": 0},
        },
    )
    rng = np.random.default_rng(seed)
    array = np.zeros((1, 30, 28, 31), dtype=np.float32)
    batch = sample_region(ArraySource(array, np.diag([*spacing, 1.0])), config, rng)
    one = {key: value[None] for key, value in batch.items()}
    token, grid = (4, 4, 4), (6, 6, 6)
    affine, source_inside, _ = token_geometry(one, token, grid)
    assert bool(source_inside.all())  # the scan is larger than the region

    i = int(rng.integers(np.prod(grid)))
    corner = np.array(np.unravel_index(i, grid)) * 4 + batch["start_vox"].numpy()
    x, y, z = (slice(c, c + 4) for c in corner)
    array[0, x, y, z] = 1
    size = config.region_size
    moved = moved_copy(
        ArraySource(array, np.diag([*spacing, 1.0])),
        batch["start_vox"].tolist(),
        size,
        batch["affine_mm"].double().numpy(),
    )[0]
    light = moved.reshape(6, 4, 6, 4, 6, 4).sum((1, 3, 5))
    j = int(match_targets(affine, grid)[0, i])
    if j >= 0 and light.sum() > 0:
        expected = map_tokens(affine, grid)[0, i].numpy() + 2.5
        place = np.stack(np.indices(size), -1)
        centroid = (place * moved[..., None]).sum((0, 1, 2)) / moved.sum()
        at_border = (np.abs(expected - 2.5) > 2).any()
        assert at_border or np.abs((centroid + 0.5) / 4 - 0.5 - expected).max() < 0.5
        assert at_border or light.flat[j] == pytest.approx(light.max(), rel=0.35)


def test_no_motion_gives_the_region_itself_and_matches_every_token_with_itself() -> None:
    config = validate(
        S2dcConfig, {"motion": STILL, "crop_motion": STILL, "intensity": PLAIN, "global_crops": 8}
    )
    rng = np.random.default_rng(0)
    source = ArraySource(rng.normal(size=(2, 40, 36, 33)).astype(np.float32))
    batch = sample_region(source, config, rng)
    torch.testing.assert_close(batch["moved"], batch["source"])
    torch.testing.assert_close(batch["augmented"], batch["source"][batch["augmented_crop"]])
    start = batch["start_vox"].tolist()
    region = from_crops(batch["source"], config.grid)
    np.testing.assert_array_equal(region, source.read(start, config.region_size))
    one = {key: value[None] for key, value in batch.items()}
    affine, *inside = token_geometry(one, (4, 4, 4), (8, 8, 8))
    assert torch.equal(match_targets(affine, (8, 8, 8))[0], torch.arange(512))
    assert all(bool(part.all()) for part in inside)


def test_padding_is_known_token_by_token() -> None:
    """A scan of 20 voxels in a region of 32: its 20 voxels are in the middle, the rest is not."""
    config = validate(S2dcConfig, {"motion": STILL, "intensity": PLAIN, "global_crops": 2})
    array = np.ones((1, 20, 40, 40), dtype=np.float32)
    source = ArraySource(array, np.diag([2.0, 1, 1, 1]), air=(0.0,))
    batch = sample_region(source, config, np.random.default_rng(0))
    one = {key: value[None] for key, value in batch.items()}
    _, source_inside, moved_inside = token_geometry(one, (4, 4, 4), (8, 8, 8))
    share = from_crops(batch["source"], config.grid)[0].reshape(8, 4, 8, 4, 8, 4).mean((1, 3, 5))
    assert torch.equal(source_inside[0], (share >= 0.5).flatten())
    assert torch.equal(source_inside, moved_inside)
    assert 0 < source_inside.sum() < 512


@few
@given(SEEDS)
def test_reading_less_changes_nothing(seed: int) -> None:
    """The block that is read, clipped to the scan, gives what the whole scan would give."""
    rng = np.random.default_rng(seed)
    array = rng.normal(size=(1, 18, 15, 20)).astype(np.float32)
    affine_mm = draw_motion(MotionConfig(rotation_deg=180, translation=1), np.full(3, 9.0), rng)
    start = rng.integers(-9, 12, 3)
    wide = np.pad(array, ((0, 0), *[(40, 40)] * 3))
    got = moved_copy(ArraySource(array, air=(0.0,)), start.tolist(), (16, 12, 14), affine_mm)
    want = moved_copy(ArraySource(wide, air=(0.0,)), (start + 40).tolist(), (16, 12, 14), affine_mm)
    np.testing.assert_allclose(got, want, atol=1e-5)


@few
@given(SEEDS, SPACINGS, st.sampled_from(["sagittal", "coronal", "axial"]))
def test_motion_within_a_plane_equals_plain_trilinear_resampling(seed, spacing, plane) -> None:
    rng = np.random.default_rng(seed)
    array = rng.normal(size=(2, 17, 14, 12)).astype(np.float32)
    config = MotionConfig(plane=plane, rotation_deg=180, scale=(0.7, 1.5), translation=1)
    affine_mm = draw_motion(config, np.full(3, 8.0), rng)
    size, start = (13, 9, 11), rng.integers(-9, 12, 3)
    source = ArraySource(array, np.diag([*spacing, 1.0]), air=(-1.0, 0.5))
    got = moved_copy(source, start.tolist(), size, affine_mm)

    # By hand: every voxel of the copy, taken back into a scan with much air around it.
    middle = (np.array(size) - 1) / 2
    voxels = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1) - middle
    back = np.linalg.inv(affine_mm)
    there = (voxels * spacing) @ back[:3, :3].T + back[:3, 3]
    there = there / spacing + start + middle + 60
    for channel, air, out in zip(array, source.background, got, strict=True):
        wide = np.pad(channel, 60, constant_values=air)
        want = ndimage.map_coordinates(wide, there.transpose(3, 0, 1, 2), order=1, mode="nearest")
        np.testing.assert_allclose(out, want, atol=1e-4)


def test_a_shift_alone_moves_by_parts_of_a_voxel_along_all_axes() -> None:
    array = np.random.default_rng(0).normal(size=(1, 30, 30, 30)).astype(np.float32)
    motion = np.eye(4)
    motion[:3, 3] = 0.25, -1.5, 2.75
    got = moved_copy(ArraySource(array), (10, 11, 12), (6, 7, 8), motion)
    want = ndimage.shift(array[0], motion[:3, 3], order=1)[10:16, 11:18, 12:20]
    np.testing.assert_allclose(got[0], want, atol=1e-5)


@pytest.mark.parametrize("plane", ["volume", "sagittal", "coronal", "axial"])
def test_crops_of_a_moved_box_are_its_parts_however_much_is_done_at_once(
    plane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    block = rng.normal(size=(2, 16, 18, 20)).astype(np.float32)
    affine_mm = draw_motion(MotionConfig(plane=plane), np.full(3, 4.0), rng)  # type: ignore[arg-type]
    size, grid = (12, 10, 9), (3, 2, 1)
    back = Back.of(affine_mm, (1.0, 1.0, 1.0), (2, 4, 5), size)
    (whole,) = moved_crops(block, back, size, (1, 1, 1))
    monkeypatch.setattr("situs.methods.s2dc.motion._AT_ONCE", 500)
    monkeypatch.setattr("situs.views.resampling._AT_ONCE", 500)
    crops = moved_crops(block, back, size, grid)
    assert crops.shape == (6, 2, 4, 5, 9)
    np.testing.assert_allclose(crops, to_crops(whole, grid), atol=1e-5)


def test_copies_that_share_a_read_are_those_made_one_by_one() -> None:
    reads = []

    class Watched(ArraySource):
        def read(self, start, size):
            reads.append(tuple(size))
            return super().read(start, size)

    rng = np.random.default_rng(0)
    source = Watched(rng.normal(size=(2, 40, 40, 40)).astype(np.float32), air=(-1.0, 2.0))
    starts = [(-2, 3, 4), (0, 5, 3), (25, 20, 30)]
    motions = [draw_motion(MotionConfig(), np.full(3, 8.0), rng) for _ in starts]
    copies = moved_copies(source, starts, (8, 9, 10), motions)
    assert len(reads) == 2
    for copy, start, motion in zip(copies, starts, motions, strict=True):
        alone = moved_copy(source, start, (8, 9, 10), motion)
        np.testing.assert_allclose(copy, alone, atol=1e-5)


def test_a_copy_of_the_region_alone_has_air_in_its_corners() -> None:
    motion = {"plane": "axial", "rotation_deg": 30}
    options = {"motion": motion, "intensity": PLAIN, "global_crops": 2, "copy_of": "region"}
    array = np.random.default_rng(0).uniform(1, 2, (1, 200, 200, 40)).astype(np.float32)
    source, share = ArraySource(array, air=(-3.0,)), {}
    for copy_of in ("region", "scan"):
        config = validate(S2dcConfig, {**options, "copy_of": copy_of})
        batches = [sample_region(source, config, np.random.default_rng(s)) for s in range(8)]
        share[copy_of] = np.mean([float((b["moved"] < -2.99).float().mean()) for b in batches])
    assert share["region"] > 0.05
    assert share["scan"] < 0.01


@few
@given(st.tuples(*[st.integers(1, 3)] * 3), st.tuples(*[st.integers(1, 4)] * 3))
def test_crops_and_back(grid: tuple[int, int, int], crop: tuple[int, int, int]) -> None:
    region = torch.randn(2, 3, *(g * c for g, c in zip(grid, crop, strict=True)))
    crops = torch.stack([torch.from_numpy(to_crops(one.numpy(), grid)) for one in region])
    assert crops.shape == (2, int(np.prod(grid)), 3, *crop)
    last = crops[:, -1]
    assert torch.equal(last, region[:, :, -crop[0] :, -crop[1] :, -crop[2] :])
    assert torch.equal(from_crops(crops, grid), region)


def test_a_sample_is_a_function_of_scan_and_generator() -> None:
    source = ArraySource(np.random.default_rng(0).normal(size=(1, 35, 50, 36)).astype(np.float32))
    first, second = (
        sample_region(source, S2dcConfig(), np.random.default_rng(7)) for _ in range(2)
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_crops": 9}, "must not exceed the 8 crops"),
        ({"per_slice": True}, "axial, coronal or sagittal"),
        ({"weights": {"p2p": 0, "p2s": 0, "global": 0}}, "nothing would be learned"),
        ({"weights": {"p2q": 1}}, "p2q"),
        ({"motion": {"scale": (1.2, 0.9)}}, "smallest, largest"),
    ],
)
def test_configuration_says_what_is_wrong(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(S2dcConfig, options)
