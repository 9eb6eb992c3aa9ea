"""Changes of intensity do to a view what their names say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from situs.views.framed import Framed
from situs.views.intensity import (
    IntensityChange,
    IntensityConfig,
    apply_change,
    blur,
    draw_change,
    jitter,
    jitter_framed,
)

SHAPES = [(129,), (40, 41), (24, 23, 22), (60, 61, 62)]


def view(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(2, 3, shape).astype(np.float32)


@pytest.mark.parametrize("sigma", [0.2, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_blurred_point_has_the_mass_and_the_spread_that_were_asked_for(sigma, dims) -> None:
    image = np.zeros((41,) * dims, dtype=np.float32)
    image[(20,) * dims] = 1
    blur(image, sigma)
    assert image.sum() == pytest.approx(1, abs=1e-5)
    assert image.min() >= 0
    for axis in range(dims):
        line = image.sum(tuple(a for a in range(dims) if a != axis))
        places = np.arange(41) - 20
        assert (line * places).sum() == pytest.approx(0, abs=1e-5)
        assert np.sqrt((line * places**2).sum()) == pytest.approx(sigma, rel=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_blur_is_close_to_a_gaussian_also_at_the_border(shape) -> None:
    image = ndimage.gaussian_filter(view(shape), 1.0, mode="reflect")
    wanted = ndimage.gaussian_filter(image, 0.9, mode="reflect")
    got = image.copy()
    blur(got, 0.9)
    assert np.abs(got - wanted).max() < 0.1 * np.abs(image - wanted).max()
    assert got.mean() == pytest.approx(image.mean(), abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_change_does_what_it_says_and_no_more(shape) -> None:
    one = view((1, *shape))
    same = apply_change(one, IntensityChange())
    np.testing.assert_array_equal(same, one)
    assert same is not one

    brighter = apply_change(one, IntensityChange(gain=1.2, shift=0.5))
    np.testing.assert_allclose(brighter, 1.2 * one + 0.5 * one.std(), rtol=1e-3, atol=0.1)

    curved = apply_change(one, IntensityChange(gamma=1.4))
    share = (one - one.min()) / np.ptp(one)
    np.testing.assert_allclose(curved, one.min() + np.ptp(one) * share**1.4, atol=1e-4)

    noisy = apply_change(one, IntensityChange(noise=0.1, noise_seed=2**62 + 7)) - one
    assert noisy.std() == pytest.approx(0.1 * one.std(), rel=0.2)
    assert abs(noisy.mean()) < 4 * noisy.std() / np.sqrt(noisy.size)
    other = apply_change(one, IntensityChange(noise=0.1, noise_seed=5)) - one
    assert abs(np.corrcoef(noisy.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(noisy.size)


def test_noise_of_a_large_view_is_white() -> None:
    noise = apply_change(np.zeros((1, 96, 96, 96), np.float32), IntensityChange(noise=0.5))[0]
    assert noise.std() == pytest.approx(0.5, rel=0.01)  # a constant view counts as of spread 1
    power = np.abs(np.fft.rfftn(noise)) ** 2 / noise.size
    for axis in range(3):
        along = power.mean(tuple(a for a in range(3) if a != axis))
        assert along[1:-1].max() / along[1:-1].min() < 1.2


def test_views_are_changed_in_place_each_by_its_own_draw_and_parts_of_one_alike() -> None:
    config = IntensityConfig(probability=1, noise=0)
    views = view((3, 2, 12, 11, 10))
    before, rng = views.copy(), np.random.default_rng(1)
    assert jitter(views, config, np.random.default_rng(1)) is views
    for now, was in zip(views, before, strict=True):
        np.testing.assert_allclose(now, apply_change(was, draw_change(config, rng)), atol=1e-6)

    # Crops of one region: blurred each by itself, all else as of the region.
    crops = before[:1].copy()
    crops[0, 1] = crops[0, 0]
    jitter(crops, config, np.random.default_rng(2), dims=3)
    np.testing.assert_array_equal(crops[0, 1], crops[0, 0])


def test_views_in_frames_are_changed_as_their_whole_images_are() -> None:
    """Windows within a view, in its corner, and so near its border that a blur reaches it."""
    for shape, size in (((40, 50), (12, 14)), ((300, 260), (90, 80)), ((16, 20), (15, 19))):
        parts, room = view((24, 2, *size)), np.subtract(shape, size)
        starts = np.random.default_rng(0).integers(0, room + 1, (24, 2))
        starts[0], starts[1] = 0, room
        framed = Framed(parts, starts, np.array([-70.0, 40.0], np.float32), shape)
        config = IntensityConfig(probability=0.6, blur=1.2)
        expected = jitter(framed.whole(), config, np.random.default_rng(1))
        rng = np.random.default_rng(1)
        np.testing.assert_allclose(jitter_framed(framed, config, rng), expected, atol=2e-3)
        assert rng.random() == after(jitter, framed.whole(), config)
        assert (framed.parts == view((24, 2, *size))).all()

    all_seen = view((3, 1, 30, 30))
    changed = jitter_framed(Framed.of(all_seen.copy()), config, np.random.default_rng(2))
    np.testing.assert_array_equal(changed, jitter(all_seen, config, np.random.default_rng(2)))


def after(change: Callable[..., object], views: np.ndarray, config: IntensityConfig) -> float:
    """What a generator draws next."""
    rng = np.random.default_rng(1)
    change(views, config, rng)
    return rng.random()


def test_draws_stay_in_their_ranges_and_each_change_is_made_as_often_as_asked() -> None:
    config, rng = IntensityConfig(), np.random.default_rng(0)
    drawn = [draw_change(config, rng) for _ in range(4000)]
    for name, neutral, low, high in (
        ("gain", 1, 0.75, 1.25),
        ("shift", 0, -0.25, 0.25),
        ("gamma", 1, 0.7, 1.5),
        ("noise", 0, 0, 0.15),
        ("blur", 0, 0, 1),
    ):
        values = np.array([getattr(change, name) for change in drawn])
        assert low <= values.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < values.max() <= high
        assert np.mean(values == neutral) == pytest.approx(0.5, abs=0.04)
