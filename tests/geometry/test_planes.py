from __future__ import annotations

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from situs.errors import SitusError
from situs.geometry import Plane, PlaneArray, clip_lines, intersect
from situs.geometry.lines import crosses_image


def random_plane(rng: np.random.Generator, rotation: np.ndarray | None = None) -> Plane:
    axes = Rotation.random(random_state=rng.integers(2**31)).as_matrix()
    shape = tuple(int(n) for n in rng.integers(20, 60, 2))
    spacing = tuple(rng.uniform(0.4, 3.0, 2))
    center = rng.normal(scale=10, size=3)
    step = np.array([(shape[1] - 1) * spacing[1], (shape[0] - 1) * spacing[0]]) / 2
    origin = center - step[0] * axes[0] - step[1] * axes[1]
    return Plane(origin, axes[0], axes[1], shape, spacing)


def moved(plane: Plane, rotation: np.ndarray, shift: np.ndarray) -> Plane:
    return Plane(
        rotation @ plane.origin_mm + shift,
        rotation @ plane.row_mm,
        rotation @ plane.column_mm,
        plane.shape,
        plane.spacing,
    )


def same_line(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Largest difference of two lines in normal form, either sign."""
    return np.minimum(np.abs(p - q).max(-1), np.abs(p + q).max(-1))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_points_of_the_line_lie_in_both_planes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sources, targets = ([random_plane(rng) for _ in range(5)] for _ in range(2))
    lines, _ = intersect(sources, targets)
    assert np.allclose(np.hypot(lines[..., 0], lines[..., 1]), 1)
    for s, source in enumerate(sources):
        foot = -lines[s, :, 2:] * lines[s, :, :2]
        along = np.stack([-lines[s, :, 1], lines[s, :, 0]], -1)
        for t, target in enumerate(targets):
            points = source.to_mm(foot[t] + np.array([[-30.0], [0.0], [30.0]]) * along[t])
            assert np.abs(target.distance_mm(points)).max() < 1e-9


def test_equals_a_symbolic_solution() -> None:
    rng = np.random.default_rng(5)
    column, row = sympy.symbols("column row")
    for _ in range(3):
        source, target = random_plane(rng), random_plane(rng)
        rational = [
            [sympy.Rational(str(float(x))) for x in v]
            for v in (source.origin_mm, source.row_mm, source.column_mm, target.origin_mm)
        ]
        point = [
            o + column * sympy.Rational(str(source.spacing[1])) * x
            + row * sympy.Rational(str(source.spacing[0])) * y
            for o, x, y in zip(*rational[:3], strict=True)
        ]  # fmt: skip
        u, v = (sympy.Matrix([sympy.Rational(str(float(x))) for x in d])
                for d in (target.row_mm, target.column_mm))  # fmt: skip
        normal = u.cross(v)
        equation = sympy.expand(normal.dot(sympy.Matrix(point) - sympy.Matrix(rational[3])))
        exact = [equation.coeff(column), equation.coeff(row), equation.subs({column: 0, row: 0})]
        length = sympy.sqrt(exact[0] ** 2 + exact[1] ** 2)
        expected = np.array([float((e / length).evalf(30)) for e in exact])
        lines, _ = intersect([source], [target])
        assert same_line(lines[0, 0], expected) < 1e-9


def test_equals_a_numerical_minimisation() -> None:
    rng = np.random.default_rng(3)
    source, target = random_plane(rng), random_plane(rng)
    line = intersect([source], [target])[0][0, 0]
    for start in rng.uniform(0, 20, (3, 2)):
        found = minimize(
            lambda p: float(target.distance_mm(source.to_mm(p))) ** 2, start, tol=1e-20
        ).x
        assert abs(line[:2] @ found + line[2]) < 1e-6


def test_the_same_line_is_seen_from_both_images() -> None:
    rng = np.random.default_rng(0)
    first, second = random_plane(rng), random_plane(rng)
    in_first = intersect([first], [second])[0][0, 0]
    in_second = intersect([second], [first])[0][0, 0]
    along = np.array([-in_first[1], in_first[0]])
    points = first.to_mm(-in_first[2] * in_first[:2] + np.array([[0.0], [25.0]]) * along)
    in_other = second.to_px(points)
    assert np.abs(in_other @ in_second[:2] + in_second[2]).max() < 1e-9


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_moving_the_whole_study_changes_no_line(seed: int) -> None:
    rng = np.random.default_rng(seed)
    planes = [random_plane(rng) for _ in range(5)]
    rotation = Rotation.random(random_state=seed % 2**31).as_matrix()
    shift = rng.normal(scale=50, size=3)
    there = [moved(p, rotation, shift) for p in planes]
    lines, mask = intersect(planes[:3], planes[2:])
    again, mask_again = intersect(there[:3], there[2:])
    apart = ~np.isnan(lines[..., 0])
    angle = np.array([[abs(s.normal_mm @ t.normal_mm) for t in planes[2:]] for s in planes[:3]])
    clear = apart & (angle < 0.99)
    assert np.allclose(lines[clear], again[clear], atol=1e-7)
    assert (mask == mask_again).all()


@pytest.mark.parametrize("flip", ["columns", "rows"])
def test_flipping_the_image_flips_the_line(flip: str) -> None:
    rng = np.random.default_rng(1)
    source, target = random_plane(rng), random_plane(rng)
    a, b, c = intersect([source], [target])[0][0, 0]
    rows, columns = source.shape
    if flip == "columns":
        corner = source.to_mm([columns - 1, 0])
        flipped = Plane(corner, -source.row_mm, source.column_mm, source.shape, source.spacing)
        expected = np.array([-a, b, c + a * (columns - 1)])
    else:
        corner = source.to_mm([0, rows - 1])
        flipped = Plane(corner, source.row_mm, -source.column_mm, source.shape, source.spacing)
        expected = np.array([a, -b, c + b * (rows - 1)])
    assert same_line(intersect([flipped], [target])[0][0, 0], expected) < 1e-9


def test_axis_aligned_planes_and_horizontal_lines() -> None:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    shape = (10, 20, 30)
    axial = Plane.from_affine(affine, 2, 5, shape)
    sagittal = Plane.from_affine(affine, 0, 4, shape)
    coronal = Plane.from_affine(affine, 1, 7, shape)
    lines, mask = intersect([axial], [axial, sagittal, coronal])
    assert mask.tolist() == [[False, True, True]]
    assert np.isnan(lines[0, 0]).all()
    assert same_line(lines[0, 1], np.array([0.0, 1.0, -4.0])) < 1e-12
    assert same_line(lines[0, 2], np.array([1.0, 0.0, -7.0])) < 1e-12


@pytest.mark.parametrize(("angle", "seen"), [(0.0, False), (4.9, False), (5.1, True), (90.0, True)])
def test_near_parallel_planes_are_masked(angle: float, seen: bool) -> None:
    source = Plane(np.array([-10.0, -10, 0]), [1, 0, 0], [0, 1, 0], (21, 21), (1, 1))
    tilt = Rotation.from_euler("x", angle, degrees=True).as_matrix()
    target = Plane(tilt @ source.origin_mm, tilt[:, 0], tilt[:, 1], (21, 21), (1, 1))
    assert intersect([source], [target])[1].item() is seen
    assert intersect([source], [target], min_angle_deg=1)[1].item() is (angle > 0)


def test_mask_is_false_where_the_line_misses_the_image() -> None:
    rng = np.random.default_rng(2)
    sources = [random_plane(rng) for _ in range(8)]
    targets = [moved(random_plane(rng), np.eye(3), rng.normal(scale=15, size=3)) for _ in range(40)]
    lines, mask = intersect(sources, targets, min_angle_deg=0)
    assert 0 < mask.mean() < 1
    for s, source in enumerate(sources):
        rows, columns = source.shape
        corners = np.array([[x, y] for x in (-0.5, columns - 0.5) for y in (-0.5, rows - 0.5)])
        value = corners @ lines[s, :, :2].T + lines[s, :, 2]
        assert ((value.min(0) < 0) & (value.max(0) > 0) == mask[s]).all()


def test_segments_end_on_the_border_and_lie_on_the_line() -> None:
    rng = np.random.default_rng(7)
    angle, offset = rng.uniform(0, 2 * np.pi, 200), rng.uniform(-30, 30, 200)
    lines = np.stack([np.cos(angle), np.sin(angle), offset], -1)
    lines[:2] = [[0, 1, -3], [1, 0, -2]]
    segments, inside = clip_lines(lines, (20, 30))
    on_line = np.einsum("npk,nk->np", segments, lines[:, :2]) + lines[:, 2:]
    assert np.abs(on_line[inside]).max() < 1e-9
    ends = segments[inside]
    border = np.stack([ends[..., 0] + 0.5, 29.5 - ends[..., 0], ends[..., 1] + 0.5,
                       19.5 - ends[..., 1]])  # fmt: skip
    assert np.abs(border.min(0)).max() < 1e-9
    assert np.isnan(segments[~inside]).all()
    assert segments[0].tolist() == [[29.5, 3.0], [-0.5, 3.0]]


def test_a_line_crosses_an_image_where_it_has_a_segment_there() -> None:
    rng = np.random.default_rng(8)
    angle, offset = rng.uniform(0, 2 * np.pi, 2000), rng.uniform(-40, 40, 2000)
    lines = np.stack([np.cos(angle), np.sin(angle), offset], -1).reshape(40, 50, 3)
    # Along an axis: within, on the border and beyond it; no line.
    lines[0, :4] = [[0, 1, -3], [0, -1, -0.5], [1, 0, -29.5], [1, 0, 0.6]]
    lines[0, 4:6] = [[0, 0, 0], [np.nan, np.nan, np.nan]]
    shapes = np.array([[20, 30]] * 39 + [[3, 70]])[:, None]
    _, inside = clip_lines(lines, shapes)
    assert 0.2 < inside.mean() < 0.8
    np.testing.assert_array_equal(crosses_image(lines, shapes), inside)
    np.testing.assert_array_equal(crosses_image(lines[0], (20, 30)), inside[0])


def header(position: list[float], orientation: list[float]) -> Dataset:
    dataset = Dataset()
    dataset.ImagePositionPatient = position
    dataset.ImageOrientationPatient = orientation
    dataset.PixelSpacing = [2.0, 0.5]
    dataset.Rows, dataset.Columns = 40, 60
    return dataset


def test_dicom_is_converted_from_lps() -> None:
    plane = Plane.from_dicom(header([10, 20, 30], [1, 0, 0, 0, 0, -1]))
    assert plane.origin_mm.tolist() == [-10, -20, 30]
    # One column to the patient's left, one row down to the feet.
    assert plane.to_mm([1, 1]).tolist() == [-10.5, -20, 28]


def test_frames_of_an_enhanced_image_have_their_own_planes() -> None:
    dataset = header([0, 0, 0], [1, 0, 0, 0, 1, 0])
    flat = Plane.from_dicom(dataset)
    position, orientation, measures = Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = [0, 0, 7]
    orientation.ImageOrientationPatient = dataset.ImageOrientationPatient
    measures.PixelSpacing = dataset.PixelSpacing
    first, second, shared = Dataset(), Dataset(), Dataset()
    first.PlanePositionSequence, second.PlanePositionSequence = [Dataset()], [position]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    enhanced = Dataset()
    enhanced.Rows, enhanced.Columns = 40, 60
    enhanced.PerFrameFunctionalGroupsSequence = [first, second]
    enhanced.SharedFunctionalGroupsSequence = [shared]
    plane = Plane.from_dicom(enhanced, frame=1)
    assert (plane.origin_mm - flat.origin_mm).tolist() == [0, 0, 7]
    with pytest.raises(SitusError, match="ImagePositionPatient"):
        Plane.from_dicom(enhanced, frame=0)


def test_from_affine_addresses_the_voxels_of_the_slice() -> None:
    rng = np.random.default_rng(4)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(random_state=4).as_matrix() * [1.0, 2.0, 3.0]
    affine[:3, 3] = rng.normal(size=3)
    shape = (5, 6, 7)
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    for axis in range(3):
        plane = Plane.from_affine(affine, axis, 3, shape)
        image = np.take(indices, 3, axis + 1)  # voxel index of each pixel
        assert plane.shape == image.shape[1:]
        row, column = 2, 4
        voxel = image[:, row, column]
        assert np.allclose(plane.to_mm([column, row]), affine[:3, :3] @ voxel + affine[:3, 3])
        assert Plane.from_affine(affine, axis, 3, plane.shape).shape == plane.shape


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"row_mm": [1, 0.5, 0]}, "perpendicular"),
        ({"row_mm": [0, 0, 0]}, "finite"),
        ({"row_mm": [np.nan, 0, 0]}, "finite"),
        ({"spacing": (0, 1)}, "positive"),
        ({"shape": (0, 4)}, "positive"),
    ],
)
def test_impossible_planes_are_refused(change: dict[str, object], words: str) -> None:
    good = {"origin_mm": [0, 0, 0], "row_mm": [1, 0, 0], "column_mm": [0, 1, 0],
            "shape": (4, 4), "spacing": (1, 1)}  # fmt: skip
    with pytest.raises(SitusError, match=words):
        Plane(**(good | change))


def test_no_planes_give_no_lines() -> None:
    lines, mask = intersect([], [random_plane(np.random.default_rng(0))])
    assert lines.shape == (0, 1, 3)
    assert mask.shape == (0, 1)


def test_planes_as_arrays_are_chosen_as_those_of_a_list() -> None:
    rng = np.random.default_rng(6)
    arrays = PlaneArray.of([random_plane(rng) for _ in range(3)])
    for index in (3, -4, [0, 3], np.array([True, False])):
        with pytest.raises(IndexError):
            arrays[index]
    for wrong in (None, 1.0, "1", Ellipsis):
        with pytest.raises(TypeError, match="integer"):
            arrays[wrong]
    for index in (1, np.int64(1), -2, True):
        np.testing.assert_array_equal(arrays[index].origin_mm, arrays.origin_mm[1])
    for some in ((0, 2), [0, 2], np.array([True, False, True])):
        np.testing.assert_array_equal(arrays[some].origin_mm, arrays.origin_mm[::2])
    assert len(arrays[[]]) == 0


def test_planes_as_arrays_are_the_planes() -> None:
    rng = np.random.default_rng(5)
    planes = [random_plane(rng) for _ in range(4)]
    arrays = PlaneArray.of(planes)
    assert PlaneArray.of(arrays) is arrays
    assert len(arrays[1:]) == 3
    for number, (plane, again) in enumerate(zip(planes, arrays, strict=True)):
        assert again.shape == plane.shape
        assert again.spacing == plane.spacing
        for name in ("origin_mm", "row_mm", "column_mm"):
            np.testing.assert_array_equal(getattr(again, name), getattr(plane, name))
        for name in ("normal_mm", "center_mm"):
            np.testing.assert_allclose(getattr(arrays, name)[number], getattr(plane, name))
        moved = plane.origin_mm + [2, 3] @ arrays.steps_mm[number]
        np.testing.assert_allclose(moved, plane.to_mm([2, 3]))
