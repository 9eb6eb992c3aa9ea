from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from situs.geometry import (
    map_tokens,
    match_matrix,
    match_targets,
    mutual_matches,
    token_affine,
    token_centres,
)

GRIDS = st.tuples(*[st.integers(1, 6)] * 3)
SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=30, deadline=None)


def random_affine(rng: np.random.Generator, translation: float = 1.5) -> np.ndarray:
    affine = np.eye(4)
    rotation = Rotation.from_rotvec(rng.uniform(-0.6, 0.6, 3)).as_matrix()
    affine[:3, :3] = rotation * rng.uniform(0.8, 1.3)
    affine[:3, 3] = rng.uniform(-translation, translation, 3)
    return affine


def brute_force(affine: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """Mutual nearest neighbours by full distance matrices, with tokens outside dropped."""
    n = np.array(grid)
    centres = np.array(list(np.ndindex(*grid))) - (n - 1) / 2

    def nearest(matrix: np.ndarray) -> list[int]:
        mapped = centres @ matrix[:3, :3].T + matrix[:3, 3]
        distance = np.linalg.norm(mapped[:, None] - centres[None], axis=-1)
        inside = (np.abs(mapped) <= n / 2).all(1)
        return [int(j) if ok else -1 for j, ok in zip(distance.argmin(1), inside, strict=True)]

    forth, back = nearest(affine), nearest(np.linalg.inv(affine))
    pairs = [(i, j) for i, j in enumerate(forth) if j >= 0 and back[j] == i]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


@few
@given(GRIDS, SEEDS)
def test_equals_brute_force(grid: tuple[int, int, int], seed: int) -> None:
    affine = random_affine(np.random.default_rng(seed))
    assert np.array_equal(mutual_matches(affine, grid), brute_force(affine, grid))


@few
@given(GRIDS)
def test_identity_matches_each_token_with_itself(grid: tuple[int, int, int]) -> None:
    pairs = mutual_matches(np.eye(4), grid)
    assert np.array_equal(pairs, np.repeat(np.arange(np.prod(grid))[:, None], 2, axis=1))


@few
@given(GRIDS, st.tuples(*[st.integers(-7, 7)] * 3))
def test_translation_by_whole_tokens_shifts(
    grid: tuple[int, int, int], shift: tuple[int, int, int]
) -> None:
    affine = np.eye(4)
    affine[:3, 3] = shift
    expected = [
        (np.ravel_multi_index(i, grid), np.ravel_multi_index(tuple(np.add(i, shift)), grid))
        for i in np.ndindex(*grid)
        if all(0 <= a + b < n for a, b, n in zip(i, shift, grid, strict=True))
    ]
    assert [tuple(pair) for pair in mutual_matches(affine, grid)] == expected


@few
@given(GRIDS, SEEDS)
def test_symmetric_under_inversion(grid: tuple[int, int, int], seed: int) -> None:
    affine = random_affine(np.random.default_rng(seed))
    forth = mutual_matches(affine, grid)
    back = mutual_matches(np.linalg.inv(affine), grid)
    assert {tuple(p) for p in forth} == {tuple(p[::-1]) for p in back}


def test_ties_are_decided_alike_in_both_directions() -> None:
    affine = np.eye(4)
    affine[0, 3] = 0.5
    # i + 1/2 goes to i, but back again i − 1/2 goes to i − 1: nothing is mutual.
    assert len(mutual_matches(affine, (4, 1, 1))) == 0
    affine[0, 3] = 0.4999
    assert np.array_equal(mutual_matches(affine, (4, 1, 1)), [[0, 0], [1, 1], [2, 2], [3, 3]])


@few
@given(GRIDS, SEEDS)
def test_batch_equals_one_by_one(grid: tuple[int, int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    affines = np.stack([random_affine(rng) for _ in range(4)])
    targets = match_targets(torch.as_tensor(affines).reshape(2, 2, 4, 4), grid)
    matrix = match_matrix(targets).reshape(4, *[int(np.prod(grid))] * 2)
    for one, expected in zip(matrix, affines, strict=True):
        assert np.array_equal(np.argwhere(one.numpy()), mutual_matches(expected, grid))


@few
@given(SEEDS)
def test_token_units_agree_with_mm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    affine_mm = random_affine(rng, translation=20)
    token_mm = rng.uniform(0.5, 12, 3)
    grid = (3, 4, 2)
    in_tokens = token_affine(torch.as_tensor(affine_mm), torch.as_tensor(token_mm))
    centres = token_centres(grid, in_tokens).numpy()
    expected_mm = (centres * token_mm) @ affine_mm[:3, :3].T + affine_mm[:3, 3]
    np.testing.assert_allclose(map_tokens(in_tokens, grid) * token_mm, expected_mm, atol=1e-9)


@pytest.mark.parametrize(
    ("affine", "grid", "message"),
    [
        (np.eye(3), (2, 2, 2), "finite"),
        (np.full((4, 4), np.nan), (2, 2, 2), "finite"),
        (np.diag([1.0, 1.0, 0.0, 1.0]), (2, 2, 2), "invertible"),
        (np.eye(4), (2, 2), "three positive"),
        (np.eye(4), (2, 0, 2), "three positive"),
    ],
)
def test_refuses_what_has_no_matching(affine: np.ndarray, grid: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mutual_matches(affine, grid)
