from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from situs.geometry import clip_lines, line_heatmap, transform_lines
from situs.geometry.lines import line_angle_deg, line_distance_mm, line_offset_mm


def random_lines(n: int, seed: int = 0, size: int = 30) -> np.ndarray:
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, n)
    normal = np.stack([np.cos(angle), np.sin(angle)], -1)
    through = rng.uniform(0, size, (n, 2))
    return np.concatenate([normal, -(normal * through).sum(-1, keepdims=True)], -1)


def nearest_mm(line: np.ndarray, point: np.ndarray, spacing: tuple[float, float]) -> float:
    """Distance by searching along the line, in mm."""
    foot, along = -line[2] * line[:2], np.array([-line[1], line[0]])
    scale = np.array([spacing[1], spacing[0]])
    return float(
        minimize_scalar(
            lambda t: np.linalg.norm((foot + t * along - point) * scale), options={"xtol": 1e-12}
        ).fun
    )


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (3.0, 0.5), (0.7, 2.1)])
def test_distance_is_the_shortest_way_in_mm(spacing: tuple[float, float]) -> None:
    for line in random_lines(8):
        point = np.array([4.0, 9.0])
        expected = nearest_mm(line, point, spacing)
        assert abs(line_distance_mm(line, point, spacing)) == pytest.approx(expected, abs=1e-6)


def test_heatmap_is_the_gaussian_of_the_distance() -> None:
    lines, shape, spacing = random_lines(5), (11, 17), (2.0, 0.6)
    maps = line_heatmap(lines, shape, spacing, sigma_mm=3.0)
    column, row = np.meshgrid(np.arange(17), np.arange(11))
    points = np.stack([column, row], -1)
    for line, heat in zip(lines, maps, strict=True):
        d = line_distance_mm(line, points, spacing)
        assert np.abs(heat - np.exp(-(d**2) / 18)).max() < 1e-6
    assert maps.dtype == np.float32


def test_heatmaps_keep_leading_dimensions_and_blocks_do_not_show() -> None:
    lines = random_lines(60).reshape(3, 20, 3)
    maps = line_heatmap(lines, (90, 100), (1.0, 1.0), 4.0)
    assert maps.shape == (3, 20, 90, 100)
    assert (maps[1, 7] == line_heatmap(lines[1, 7], (90, 100), (1.0, 1.0), 4.0)).all()


def test_torch_and_numpy_agree_and_torch_is_differentiable() -> None:
    lines, spacing = random_lines(6), (1.5, 0.8)
    lines[0], lines[1] = np.nan, 0
    each = np.tile(np.array([1.5, 0.8]), (6, 1))
    tensor = torch.tensor(lines, requires_grad=True)
    maps = line_heatmap(tensor, (20, 25), spacing, 3.0)
    assert np.abs(maps.detach().numpy() - line_heatmap(lines, (20, 25), spacing, 3.0)).max() < 1e-6
    assert np.abs(line_heatmap(lines, (20, 25), each, 3.0) - maps.detach().numpy()).max() < 1e-6
    per_line = line_heatmap(tensor, (20, 25), torch.tensor(each), 3.0)
    assert torch.allclose(per_line, maps)
    assert maps[:2].max() < 1e-30
    maps[2:].sum().backward()
    assert torch.isfinite(tensor.grad[2:]).all()
    assert tensor.grad[2:].abs().max() > 0


def test_the_map_that_carries_gradient_is_the_same_map() -> None:
    lines = torch.tensor(random_lines(4), requires_grad=True)
    maps = line_heatmap(lines, (20, 30), (1.0, 2.0), 6.0)
    plain = line_heatmap(lines.detach(), (20, 30), (1.0, 2.0), 6.0)
    torch.testing.assert_close(maps.detach(), plain)
    with torch.no_grad():  # an observation of lines that are trained
        torch.testing.assert_close(line_heatmap(lines, (20, 30), (1.0, 2.0), 6.0), plain)
    (gradient,) = torch.autograd.grad(maps.sum(), lines)
    step = 1e-6 * torch.ones_like(lines)
    moved = line_heatmap(lines.detach() + step, (20, 30), (1.0, 2.0), 6.0)
    assert (moved - plain).sum().item() == pytest.approx((gradient * step).sum().item(), rel=1e-2)


def test_transformed_lines_hold_the_transformed_points() -> None:
    lines = random_lines(10)
    matrix = np.array([[0.9, -0.3, 4.0], [0.5, 1.1, -2.0], [0, 0, 1]])
    moved = transform_lines(lines, matrix)
    foot = -lines[:, 2:] * lines[:, :2]
    along = np.stack([-lines[:, 1], lines[:, 0]], -1)
    for t in (-5.0, 0.0, 8.0):
        points = np.concatenate([foot + t * along, np.ones((10, 1))], -1) @ matrix.T
        assert np.abs((moved * points).sum(-1)).max() < 1e-9
    assert np.allclose(np.hypot(*moved[:, :2].T), 1)


def test_angle_is_measured_in_the_patient() -> None:
    horizontal, diagonal = np.array([0.0, 1, -3]), np.array([1, 1, -9]) / 2**0.5
    assert line_angle_deg(horizontal, diagonal, (1, 1)) == pytest.approx(45)
    assert line_angle_deg(horizontal, -diagonal, (1, 1)) == pytest.approx(45)
    # A diagonal over pixels twice as tall as wide rises 2 mm for each mm.
    assert line_angle_deg(horizontal, diagonal, (2, 1)) == pytest.approx(np.degrees(np.arctan(2)))


def test_offset_is_the_mean_distance_along_the_visible_segment() -> None:
    true, predicted = random_lines(40, seed=1), random_lines(40, seed=2)
    shape, spacing = (30, 30), (1.4, 0.7)
    offset = line_offset_mm(predicted, true, shape, spacing)
    segments, inside = clip_lines(true, shape)
    t = (np.arange(20000) + 0.5) / 20000
    for i in np.flatnonzero(inside):
        points = segments[i, 0] + t[:, None] * (segments[i, 1] - segments[i, 0])
        expected = np.abs(line_distance_mm(predicted[i], points, spacing)).mean()
        assert offset[i] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert line_offset_mm(true, true, shape, spacing)[inside] == pytest.approx(0, abs=1e-9)
