from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from situs.training.loading import WatchedLoader
from situs.transfer.augment import draw, move, recolour
from situs.transfer.cases import PreparedCase, places
from situs.transfer.config import Augmentation
from situs.transfer.patches import Framing, PatchSampler
from situs.views.intensity import IntensityChange


class Grid:
    """Stands for a prepared scan: an array, its spacing, and air that is 0."""

    background = (0.0,)

    def __init__(self, array: np.ndarray, spacing: tuple[float, float, float]) -> None:
        self.array, self.spacing = array, spacing


def case(shape: tuple[int, int, int], spacing=(1.0, 1.0, 1.0), seed: int = 0) -> PreparedCase:
    """Every voxel's intensity is its flat index, so that a patch tells where it came from."""
    label = np.zeros(shape, np.int16)
    rng = np.random.default_rng(seed)
    label[tuple(int(rng.integers(n)) for n in shape)] = 1
    array = np.arange(1, label.size + 1, dtype=np.float32).reshape(1, *shape)
    return PreparedCase("c", Grid(array, spacing), np.eye(4), label, places=places(label))


def sampler(cases, framing, augmentation=None, share=1.0, seed=0, batch=2) -> PatchSampler:
    augmentation = augmentation or Augmentation.off()
    return PatchSampler(cases, framing, batch, augmentation, share, seed)


@settings(deadline=None, max_examples=20)
@given(
    shape=st.tuples(*[st.integers(3, 12)] * 3),
    size=st.tuples(*[st.sampled_from([4, 5, 8])] * 3),
    seed=st.integers(0, 50),
)
def test_unchanged_patches_are_exact_copies(shape, size, seed) -> None:
    one = case(shape, seed=seed)
    batch = next(iter(sampler([one], Framing(size), seed=seed)))
    inside = tuple(min(n, s) for n, s in zip(shape, size, strict=True))
    for image, label in zip(batch["image"], batch["label"], strict=True):
        values = image[image > 0.5].round().long().numpy() - 1
        # As much of the scan as fits, each voxel once, the rest zero.
        assert len(values) == math.prod(inside) == len(np.unique(values))
        corner = np.array(np.unravel_index(values.min(), shape))
        block = tuple(slice(c, c + n) for c, n in zip(corner, inside, strict=True))
        assert np.array_equal(np.sort(values), one.image[0][block].ravel().astype(int) - 1)
        assert torch.equal(label[image[0] > 0.5], torch.tensor(one.label.ravel()[values]).long())
        assert label.any(), "every patch was asked to hold the labelled voxel"


def test_patches_cut_anywhere_reach_out_where_a_scan_ends_in_air() -> None:
    """Windows of other scans may hold little but air; tissue goes on beyond a scan."""
    one = case((12, 12, 6))
    one.image[...] = 0
    one.image[0, 4:, 4:8] = 100  # up to the last plane of the first axis
    assert one.ends_in_air.tolist() == [[True, False], [True, True], [False, False]]
    one.prepared.background = (-1.0,)
    framing = Framing((8, 8, 8))
    inside = sampler([one], framing, share=0.0, batch=500).batch(0)["image"][:, 0] > -0.5
    assert torch.equal(inside.any((1, 2)).sum(1), torch.full((500,), 6)), "in the middle"
    x, y = inside.any((2, 3)), inside.any((1, 3))
    assert x.sum(1).min() == y.sum(1).min() == 6, "a quarter of 8 voxels may lie outside"
    assert bool(x[:, -1].all()), "and none where the body ends"
    assert not torch.stack([y[:, -1], y[:, 0], x[:, 0]]).all(1).any()
    scan = replace(one, label=None, places=(), target=np.array(1))
    assert (sampler([scan], framing, share=0.0).batch(0)["image"] > -0.5).sum() == 768


def test_the_stream_depends_on_the_seed_only() -> None:
    cases = [case((10, 11, 12), seed=i) for i in range(3)]
    streams = [iter(sampler(cases, Framing((6, 6, 6)), Augmentation(), 0.5, s)) for s in (1, 1, 2)]
    first, again, other = ([next(s) for _ in range(4)] for s in streams)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0]["image"], other[0]["image"])


def test_workers_give_the_same_stream() -> None:
    cases = [case((10, 11, 12), seed=i) for i in range(3)]
    alone = sampler(cases, Framing((6, 6, 6)), Augmentation(), 0.5, seed=1)
    loader = WatchedLoader(alone, list, 2, batch_size=None)  # as fine-tuning's
    shared = list(islice(loader, 5))
    for number, batch in enumerate(shared):
        assert torch.equal(batch["image"], alone.batch(number)["image"])


def test_every_case_comes_equally_often() -> None:
    cases = [case((6, 6, 6)) for _ in range(4)]
    for i, c in enumerate(cases):
        c.image[:] = i + 1
    stream = iter(sampler(cases, Framing((4, 4, 4))))
    seen = torch.cat([next(stream)["image"].amax((1, 2, 3, 4)) for _ in range(10)])
    assert torch.bincount(seen.int())[1:].tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_slices_of_the_volume(axis: int) -> None:
    one = case((7, 8, 9))
    framing = Framing((8, 8), axis)
    batch = next(iter(sampler([one], framing)))
    assert batch["image"].shape == (2, 1, 8, 8)
    for image in batch["image"]:
        place = np.unravel_index(image[image > 0.5].round().long().numpy() - 1, one.shape)
        assert len(np.unique(place[axis])) == 1
    volume = torch.from_numpy(one.image)
    assert torch.equal(framing.from_batch(framing.to_batch(volume)), volume)
    slices = framing.to_batch(volume)
    assert torch.equal(slices[3], volume.select(axis + 1, 3))


def test_rotations_are_rigid_in_space_and_spare_thick_slices() -> None:
    config = Augmentation(rotation_deg=90, scale=0, flip_axes=(), probability=1)
    spacing = torch.tensor([[0.5, 1.0, 1.2], [1.0, 1.0, 6.0]])
    matrix = draw(config, spacing, (0, 1, 2), torch.Generator().manual_seed(3)).matrix
    # In mm the matrix must be orthogonal: S M S⁻¹.
    rigid = matrix * spacing[:, :, None] / spacing[:, None, :]
    identity = torch.eye(3).expand(2, 3, 3)
    torch.testing.assert_close(rigid @ rigid.mT, identity, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rigid), torch.ones(2))
    assert not torch.allclose(rigid[0, :2, 2], torch.zeros(2), atol=1e-3)
    torch.testing.assert_close(rigid[1, 2], torch.tensor([0.0, 0.0, 1.0]))


@settings(deadline=None, max_examples=15)
@given(dims=st.sampled_from([2, 3]), seed=st.integers(0, 99))
def test_image_and_label_move_together_and_stay_in_the_crop(dims: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    config = Augmentation(rotation_deg=40, scale=0.4, flip_axes=(0, 1, 2), probability=1)
    spacing = torch.rand((2, dims), generator=generator) + 0.5
    drawn = draw(config, spacing, tuple(range(dims)), generator)
    size = (8, 9, 6)[:dims]
    crop = drawn.crop_size(size)
    # A smooth image whose thresholds are the labels.
    axes = torch.meshgrid(*[torch.linspace(0, 3, n) for n in crop], indexing="ij")
    image = sum(a.sin() for a in axes).expand(2, 1, *crop) + 2
    label = (image[:, 0] > 3).long()
    moved, picked = move(image, label, drawn, size)
    assert (moved > 1.9).all(), "nothing from beyond the crop"
    clear = (moved[:, 0] - 3).abs() > 0.4
    assert torch.equal(picked[clear], (moved[:, 0] > 3).long()[clear])


def test_flips_are_flips() -> None:
    generator = torch.Generator().manual_seed(0)
    config = replace_probability(Augmentation(flip_axes=(1,)), 0)
    drawn = draw(config, torch.ones(16, 2), (1, 2), generator)
    image = torch.rand(16, 1, 6, 5)
    moved, _ = move(image, None, drawn, (6, 5))
    flipped = torch.isclose(moved, image.flip(2), atol=1e-5).flatten(1).all(1)
    kept = torch.isclose(moved, image, atol=1e-5).flatten(1).all(1)
    assert (flipped != kept).all()
    assert 0 < flipped.sum() < 16


def replace_probability(config: Augmentation, probability: float) -> Augmentation:
    return config.model_copy(update={"probability": probability})


def test_recolouring() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((2, 1, 8, 8, 8), generator=generator)
    still = draw(Augmentation.off(), torch.ones(2, 3), (0, 1, 2), generator)
    torch.testing.assert_close(recolour(image.clone(), still), image)
    drawn = replace(still, changes=(IntensityChange(contrast=1.5), IntensityChange(shift=2.0)))
    out = recolour(image.clone(), drawn)
    torch.testing.assert_close(out[0].std(), 1.5 * image[0].std())
    torch.testing.assert_close(out[0].mean(), image[0].mean())
    torch.testing.assert_close(out[1], image[1] + 2 * image[1].std(correction=0))


def test_channels_have_ranges_and_noise_of_their_own_and_patches_do_not_depend_on_others() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((3, 2, 8, 8, 8), generator=generator)
    image[:, 1] = 100 * image[:, 1] - 40
    config = Augmentation(gamma=0.5, contrast=0.3, brightness=0.5, noise=0.2, probability=1)
    drawn = draw(config, torch.ones(3, 3), (0, 1, 2), generator)
    out = recolour(image.clone(), drawn)
    alike = recolour(image.clone()[:, :1].expand(-1, 2, -1, -1, -1).clone(), drawn)
    torch.testing.assert_close(out[:, 0], alike[:, 0])
    assert not torch.allclose(alike[:, 0], alike[:, 1]), "each channel has its own noise"
    without = replace(drawn, changes=tuple(replace(c, noise=0.0) for c in drawn.changes))
    clean = recolour(image.clone(), without)
    for patch in range(3):
        assert (out[patch, 0] - clean[patch, 0]).std() < 0.3 * image[patch, 0].std()
        assert (out[patch, 1] - clean[patch, 1]).std() < 0.3 * image[patch, 1].std()
    torch.testing.assert_close(recolour(image[1:].clone(), drawn.rows(slice(1, None))), out[1:])


def test_result_folders_of_before_say_rotation_in_full() -> None:
    assert Augmentation.model_validate({"rotation_degrees": 7}) == Augmentation(rotation_deg=7)
