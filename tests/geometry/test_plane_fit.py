from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from situs.errors import SitusError
from situs.geometry.plane_fit import fit_plane, plane_angle_deg


def segments_in_a_plane(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    axes = Rotation.random(random_state=rng.integers(2**31)).as_matrix()
    flat = rng.normal(scale=40, size=(n, 2, 2))
    return flat @ axes[:2] + rng.normal(size=3), axes[2]


def test_lines_of_a_plane_give_the_plane_back() -> None:
    segments, normal = segments_in_a_plane(np.random.default_rng(0), 5)
    fit = fit_plane(segments)
    assert plane_angle_deg(fit.normal_mm, normal) < 1e-6
    assert fit.residuals_mm.max() < 1e-9
    assert np.abs(fit.distance_mm(segments)).max() < 1e-9
    t = np.linspace(0, 1, 2001)[:, None, None]
    points = segments[:, 0] + t * (segments[:, 1] - segments[:, 0])
    spread = np.sqrt(np.linalg.eigvalsh(np.cov(points.reshape(-1, 3).T)).clip(0))
    assert np.allclose(fit.extent_mm[1:], spread[1:], rtol=1e-3)


def test_equals_a_numerical_minimisation_over_sampled_points() -> None:
    rng = np.random.default_rng(1)
    segments, _ = segments_in_a_plane(rng, 4)
    segments += rng.normal(scale=3, size=segments.shape)
    weights = rng.uniform(0.2, 1, 4)
    t = (np.arange(2000) + 0.5) / 2000
    points = segments[:, :1] + t[:, None] * (segments[:, 1:] - segments[:, :1])
    fit = fit_plane(segments, weights, robust_mm=None)

    def cost(p: np.ndarray) -> float:
        normal = p[:3] / np.linalg.norm(p[:3])
        return float((weights[:, None] * (points @ normal - p[3]) ** 2).mean(1).sum())

    start = np.append(fit.normal_mm + rng.normal(scale=0.1, size=3), fit.point_mm @ fit.normal_mm)
    found = minimize(cost, start, tol=1e-14).x
    assert plane_angle_deg(found[:3], fit.normal_mm) < 1e-2
    best = cost(np.append(fit.normal_mm, fit.point_mm @ fit.normal_mm))
    assert best <= cost(found) * (1 + 1e-6)
    assert best == pytest.approx((weights * fit.residuals_mm**2).sum(), rel=1e-5)


def test_one_wrong_line_does_not_turn_the_plane() -> None:
    rng = np.random.default_rng(2)
    segments, normal = segments_in_a_plane(rng, 6)
    segments += rng.normal(scale=0.3, size=segments.shape)
    segments[0] += 60 * normal
    assert plane_angle_deg(fit_plane(segments, robust_mm=None).normal_mm, normal) > 5
    robust = fit_plane(segments)
    assert plane_angle_deg(robust.normal_mm, normal) < 2
    assert robust.weights[0] < 0.01 * robust.weights[1:].min()


def test_weight_zero_leaves_a_line_out() -> None:
    segments, normal = segments_in_a_plane(np.random.default_rng(3), 4)
    segments[0] += 100 * normal
    fit = fit_plane(segments, [0, 1, 1, 1], robust_mm=None)
    assert plane_angle_deg(fit.normal_mm, normal) < 1e-6


def test_too_few_lines_fix_no_plane() -> None:
    segments, _ = segments_in_a_plane(np.random.default_rng(4), 3)
    with pytest.raises(SitusError, match="two views, got 1"):
        fit_plane(segments[:1])
    with pytest.raises(SitusError, match="nearly one line"):
        fit_plane(np.stack([segments[0], segments[0] + 1e-6]))


def test_two_lines_that_are_one_do_not_keep_others_from_fixing_the_plane() -> None:
    segments, normal = segments_in_a_plane(np.random.default_rng(2), 3)
    again = np.concatenate([segments[:1], segments])  # the first view twice
    assert plane_angle_deg(fit_plane(again).normal_mm, normal) < 1e-6


def test_lines_of_no_plane_at_all_end_in_some_plane() -> None:
    # For these the reweighting has not settled when it is stopped.
    segments = np.random.default_rng(4).normal(scale=40, size=(7, 2, 3))
    fit = fit_plane(segments, robust_mm=2.0)
    assert np.linalg.norm(fit.normal_mm) == pytest.approx(1)
    assert np.isfinite(fit.residuals_mm).all()
