"""Slices lie where the affine says, whatever the order and direction of the array's axes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure

from situs.report import style
from situs.report.figures import anatomy

ORDERS = list(
    itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
)


def scan_with_landmark() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An array whose one bright voxel is right, anterior and superior; its place in mm."""
    array = np.zeros((12, 10, 8), np.float32)
    array[9, 8, 6] = 1
    affine = np.diag([2.0, 3.0, 5.0, 1.0])
    affine[:3, 3] = [-11, 4, 30]
    return array, affine, affine[:3, :3] @ [9, 8, 6] + affine[:3, 3]


def reordered(order: tuple[int, ...], signs: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    array, affine, _ = scan_with_landmark()
    moved = array.transpose(order)
    affine = affine[:, [*order, 3]].copy()
    for axis, sign in enumerate(signs):
        if sign < 0:
            moved = np.flip(moved, axis)
            affine[:3, 3] += affine[:3, axis] * (moved.shape[axis] - 1)
            affine[:3, axis] *= -1
    return moved, affine


@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_the_landmark_is_at_its_place_in_mm_for_every_orientation(
    order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    array, affine = reordered(order, signs)
    _, _, place = scan_with_landmark()
    volume = anatomy.canonical(array, affine)
    at = np.argwhere(array == 1)[0]
    point = volume.points(at)
    np.testing.assert_allclose(point, [9, 8, 6], atol=1e-9)
    for plane, columns in (("axial", (0, 1)), ("coronal", (0, 2)), ("sagittal", (1, 2))):
        view = anatomy.slice_view(volume, plane, point[view_axis(plane)])
        np.testing.assert_allclose(view.plot(point), place[list(columns)], atol=1e-9)
        row, column = np.argwhere(view.image() == 1)[0]
        left, right, bottom, top = view.extent
        height, width = view.image().shape
        drawn = (left + (column + 0.5) * (right - left) / width,
                 bottom + (row + 0.5) * (top - bottom) / height)  # fmt: skip
        np.testing.assert_allclose(drawn, place[list(columns)], atol=1e-9)


def view_axis(plane: str) -> int:
    return {"axial": 2, "coronal": 1, "sagittal": 0}[plane]


def test_right_is_on_the_left_of_the_page_and_anterior_up() -> None:
    array, affine, _ = scan_with_landmark()
    figure = Figure()
    axes = figure.add_subplot()
    anatomy.draw_slice(axes, anatomy.slice_view(anatomy.canonical(array, affine), "axial"))
    assert axes.xaxis_inverted()
    assert not axes.yaxis_inverted()
    corners = {text.get_position(): text.get_text() for text in axes.texts}
    assert corners[(0.02, 0.5)] == "R"
    assert corners[(0.98, 0.5)] == "L"
    assert corners[(0.5, 0.98)] == "A"
    assert corners[(0.5, 0.02)] == "P"


@pytest.mark.parametrize("taken", range(5))
def test_a_scale_bar_lies_on_no_mark_while_a_corner_is_free(taken: int) -> None:
    array, affine, _ = scan_with_landmark()
    view = anatomy.slice_view(anatomy.canonical(array, affine), "axial")
    with style.figure(*anatomy.figure_size(view)) as figure:
        axes = anatomy.image_axes(figure)
        anatomy.draw_slice(axes, view, bar=False)
        corners = [(0.1, 0.06), (0.85, 0.06), (0.1, 0.88), (0.85, 0.88)]
        marks = [axes.text(*at, "7", transform=axes.transAxes) for at in corners[:taken]]
        before = len(axes.texts), len(axes.lines)
        anatomy.scale_bar(axes, view, marks)
        assert (len(axes.texts), len(axes.lines)) == (before[0] + 1, before[1] + 1)
        drawn = [axes.texts[-1].get_window_extent(), axes.lines[-1].get_window_extent()]
        on = [box.overlaps(mark.get_window_extent()) for mark in marks for box in drawn]
        assert any(on) == (taken == 4)
        middle = drawn[1].get_points().mean(axis=0)
        u, v = axes.transAxes.inverted().transform(middle)
        wanted = [(True, True), (False, True), (True, False), (False, False), (True, True)][taken]
        assert (u < 0.5, v < 0.5) == wanted
        (length,) = np.ptp(axes.lines[-1].get_xdata()[None], axis=1)
        assert axes.texts[-1].get_text() == f"{length:g} mm"
        whole = axes.get_window_extent()
        assert all(whole.contains(*corner) for box in drawn for corner in box.get_points())


def test_proportions_are_true_for_anisotropic_voxels() -> None:
    volume = anatomy.canonical(np.zeros((64, 64, 10)), np.diag([1.0, 1, 6, 1]))
    view = anatomy.slice_view(volume, "coronal")
    assert view.size_mm == (64, 60)
    width, height = anatomy.figure_size(view, ticks=False)
    assert (width - 4) / (height - 4) == pytest.approx(64 / 60)


def test_oblique_directions_get_two_letters_and_flat_volumes_one_plane() -> None:
    assert anatomy.letters(np.asarray([1, 0, 0])) == "R"
    assert anatomy.letters(np.asarray([-3, 0, 0.1])) == "L"
    assert anatomy.letters(np.asarray([1, 0.8, 0])) == "RA"
    assert anatomy.letters(np.asarray([0.5, 0, -1])) == "IR"
    assert anatomy.planes_of((64, 64, 1)) == ("axial",)
    assert anatomy.planes_of((1, 64, 64)) == ("sagittal",)
    assert anatomy.planes_of((64, 64, 64)) == anatomy.PLANES


def test_a_window_copes_with_outliers_constants_and_nothing() -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(100, 10, (20, 20, 20))
    array[0, 0, 0] = 1e6
    low, high = anatomy.window(array)
    assert 60 < low < high < 140
    low, high = anatomy.window(np.full((3, 3, 3), 7.0))
    assert low < high
    assert anatomy.window(np.full((2, 2, 2), np.nan)) == (0.0, 1.0)
