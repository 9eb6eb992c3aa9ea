"""Gap geometry against brute force and closed forms."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from situs.geometry import chunk_offsets, cycle_sums, gap_matrix, route_sums

centers = arrays(np.float64, (4, 3), elements=st.floats(-200, 200))
gaps = arrays(
    np.float64, 3, elements=st.one_of(st.just(0.0), st.floats(0.01, 80), st.floats(-80, -0.01))
)


@settings(deadline=None, max_examples=50)
@given(centers)
def test_gap_matrix_is_antisymmetric_and_additive(points: np.ndarray) -> None:
    gap = gap_matrix(points)
    assert gap.shape == (4, 4, 3)
    np.testing.assert_allclose(gap[1, 2], points[2] - points[1])
    np.testing.assert_allclose(gap, -gap.swapaxes(0, 1))
    np.testing.assert_allclose(gap[0, 1] + gap[1, 3], gap[0, 3], atol=1e-9)


def test_gap_matrix_does_not_change_when_the_frame_moves() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(5, 3))
    np.testing.assert_allclose(
        gap_matrix(points + np.array([10, -3, 8])), gap_matrix(points), atol=1e-12
    )
    batched = torch.from_numpy(rng.normal(size=(2, 7, 5, 3)))
    assert torch.equal(gap_matrix(batched)[1, 4], gap_matrix(batched[1, 4]))


@settings(deadline=None, max_examples=100)
@given(
    gaps,
    st.tuples(*[st.integers(8, 40)] * 3),
    st.tuples(*[st.integers(1, 8)] * 3),
)
def test_chunks_lie_as_far_along_the_gap_as_the_view_allows(
    gap: np.ndarray, view: tuple[int, ...], chunk: tuple[int, ...]
) -> None:
    offset = chunk_offsets(gap, view, chunk)
    room = (np.asarray(view) - chunk) / 2
    assert (np.abs(offset) <= room).all()
    # Brute force: walk along the line and keep the last place where the chunk is inside.
    if not gap.any():
        assert not offset.any()
        return
    steps = np.linspace(0, 1.01 * np.min(room[gap != 0] / np.abs(gap[gap != 0])) + 1e-9, 2001)
    places = steps[:, None] * gap
    inside = (np.abs(places) <= room + 1e-9).all(axis=1)
    farthest = places[inside][-1]
    spacing = np.abs(gap).max() * (steps[1] - steps[0])
    np.testing.assert_allclose(offset, farthest, atol=2 * spacing + 1e-6)
    np.testing.assert_allclose(np.cross(offset, gap), 0, atol=1e-6 * (1 + np.abs(gap).max()))


def test_adjacent_chunks_are_the_closest_and_distant_ones_the_farthest_along_the_line() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        center_i, center_j = rng.uniform(0, 100, size=(2, 3))
        gap = center_j - center_i
        o = chunk_offsets(gap, 24, 8)
        # Chunk centres allowed along the line in each view.
        places = np.linspace(-1, 1, 41)[:, None] * o
        distances = np.linalg.norm(
            (center_j + places)[None] - (center_i + places)[:, None], axis=-1
        )
        adjacent = np.linalg.norm((center_j - o) - (center_i + o))
        distant = np.linalg.norm((center_j + o) - (center_i - o))
        assert distant == pytest.approx(distances.max())
        if (np.abs(gap) > 24).any():  # views apart: nothing passes through the other
            assert adjacent == pytest.approx(distances.min())


def test_a_chunk_larger_than_its_view_is_refused() -> None:
    with pytest.raises(ValueError, match="must not exceed view_size"):
        chunk_offsets(torch.ones(3), (16, 16, 8), (8, 8, 9))


def test_route_sums_equal_the_sums_of_enumerated_routes() -> None:
    steps = torch.randn(2, 4, 4, 3, dtype=torch.float64)
    sums = route_sums(steps)
    assert sums.shape == (2, 4, 6, 3)
    for start in range(4):
        others = [v for v in range(4) if v != start]
        for r, order in enumerate(permutations(others)):
            stops = [start, *order]
            expected = sum(steps[:, a, b] for a, b in pairwise(stops))
            torch.testing.assert_close(sums[:, start, r], expected)


def test_routes_over_differences_of_positions_telescope() -> None:
    positions = torch.randn(5, 3, dtype=torch.float64)
    sums = route_sums(gap_matrix(positions))
    for start in range(5):
        others = [v for v in range(5) if v != start]
        last = torch.tensor([order[-1] for order in permutations(others)])
        torch.testing.assert_close(sums[start], positions[last] - positions[start])


def test_cycles_close_exactly_for_positions_and_not_for_free_steps() -> None:
    assert cycle_sums(torch.randn(2, 2, 3)).shape == (0, 3)
    positions = torch.randn(4, 3, dtype=torch.float64)
    assert cycle_sums(gap_matrix(positions)).abs().max() < 1e-12
    steps = torch.randn(3, 3, 3)
    assert cycle_sums(steps).shape == (2, 3)
    torch.testing.assert_close(cycle_sums(steps)[0], steps[0, 1] + steps[1, 2] + steps[2, 0])


def test_numpy_gives_numpy_and_torch_gives_torch() -> None:
    steps = np.random.default_rng(0).normal(size=(3, 3, 3))
    for function in (lambda a: chunk_offsets(a, 16, 4), route_sums):
        given_numpy, given_torch = function(steps), function(torch.from_numpy(steps))
        assert isinstance(given_numpy, np.ndarray)
        assert isinstance(given_torch, torch.Tensor)
        np.testing.assert_allclose(given_numpy, given_torch.numpy())
