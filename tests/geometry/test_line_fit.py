from __future__ import annotations

import numpy as np
import pytest

from situs.geometry import clip_lines, line_heatmap
from situs.geometry.line_fit import fit_line
from situs.geometry.lines import line_angle_deg, line_offset_mm

SHAPE, SIGMA = (64, 80), 6.0


def lines_through_the_image(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, n)
    normal = np.stack([np.cos(angle), np.sin(angle)], -1)
    through = rng.uniform([4, 4], [SHAPE[1] - 5, SHAPE[0] - 5], (n, 2))
    return np.concatenate([normal, -(normal * through).sum(-1, keepdims=True)], -1)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.0, 0.8)])
def test_a_perfect_map_gives_its_line_back(spacing: tuple[float, float]) -> None:
    lines = lines_through_the_image(60)
    segments, _ = clip_lines(lines, SHAPE)
    long = np.linalg.norm(segments[:, 1] - segments[:, 0], axis=-1) > 15
    maps = line_heatmap(lines, SHAPE, spacing, SIGMA)
    fitted, confidence = fit_line(maps, spacing, SIGMA)
    assert line_offset_mm(fitted, lines, SHAPE, spacing)[long].max() < 1e-3
    assert line_angle_deg(fitted, lines, spacing)[long].max() < 1e-2
    assert confidence[long].min() > 0.999


def test_noise_costs_less_than_a_pixel() -> None:
    rng = np.random.default_rng(1)
    lines = lines_through_the_image(40, seed=1).reshape(4, 10, 3)
    maps = line_heatmap(lines, SHAPE, (1, 1), SIGMA)
    noisy = maps + rng.normal(scale=0.15, size=maps.shape)
    fitted, confidence = fit_line(noisy, (1, 1), SIGMA)
    assert np.median(line_offset_mm(fitted, lines, SHAPE, (1, 1))) < 0.3
    assert np.median(line_angle_deg(fitted, lines, (1, 1))) < 0.5
    assert confidence.shape == (4, 10)
    assert 0.7 < np.median(confidence) < 0.99


def test_confidence_falls_for_faint_ambiguous_and_flat_maps() -> None:
    one, other = line_heatmap(lines_through_the_image(2, seed=5), SHAPE, (1, 1), SIGMA)
    maps = np.stack([one, 0.3 * one, (one + other) / 2, np.full(SHAPE, 0.2)])
    _, (clear, faint, ambiguous, flat) = fit_line(maps, (1, 1), SIGMA)
    assert clear > 0.999
    assert faint == pytest.approx(0.3, abs=1e-3)
    assert ambiguous < 0.6
    assert flat < 0.2


def test_an_empty_map_has_no_line() -> None:
    lines, confidence = fit_line(np.full((1, *SHAPE), -1.0), (1, 1), SIGMA)
    assert np.isnan(lines).all()
    assert confidence[0] == 0
