from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from situs.datasets.dataset import open_dataset
from situs.demo.cohort import CLASSES, Subject, Template, demo_cohort, load_template, make_subject
from situs.demo.warps import integrate, jacobian_determinant, random_warp, sample, smooth_field
from situs.errors import SitusError

pytestmark = pytest.mark.slow

pytest.importorskip("nilearn", reason="the demo cohort needs the extra 'demo'")
SPACING = 5.0


@pytest.fixture(scope="module")
def template() -> Template:
    return load_template(SPACING)


@pytest.fixture(scope="module")
def subjects(template: Template) -> list[Subject]:
    return [make_subject(template, np.random.default_rng([0, i])) for i in range(4)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_cohort(tmp_path_factory.mktemp("demo"), subjects=2, spacing_mm=SPACING)


def test_integration_follows_the_flow():
    """Against an ODE solver that walks along the same velocity field."""
    rng = np.random.default_rng(1)
    velocity = 1.5 * smooth_field((30, 32, 28), 8.0, rng, components=3)
    displacement = integrate(velocity)
    starts = rng.uniform(10, 18, (3, 12))

    def flow(_, flat):
        points = flat.reshape(3, 12, 1, 1).astype(np.float32)
        return sample(velocity, points).ravel()

    ends = solve_ivp(flow, (0, 1), starts.ravel(), rtol=1e-6, atol=1e-6).y[:, -1].reshape(3, 12)
    got = starts + sample(displacement, starts.reshape(3, 12, 1, 1).astype(np.float32))[..., 0, 0]
    assert np.abs(got - ends).max() < 0.05
    assert np.abs(ends - starts).max() > 1.0


def test_flowing_back_undoes_flowing_forth():
    velocity = 1.5 * smooth_field((32, 32, 32), 8.0, np.random.default_rng(2), components=3)
    forth, back = integrate(velocity), integrate(-velocity)
    there = np.indices(velocity.shape[1:], dtype=np.float32) + forth
    remaining = (forth + sample(back, there))[:, 6:-6, 6:-6, 6:-6]
    assert np.abs(remaining).max() < 0.05


@pytest.mark.parametrize("seed", range(6))
def test_warps_never_fold(seed: int):
    warp = random_warp((40, 47, 38), 4.0, np.random.default_rng(seed))
    determinant = jacobian_determinant(warp, 4.0)
    assert determinant.min() > 0.05
    assert 0.6 < determinant.mean() < 1.6


def test_jacobian_of_a_linear_map_is_its_determinant():
    matrix = np.array([[1.1, 0.2, 0.0], [-0.1, 0.9, 0.3], [0.0, 0.1, 1.2]])
    points = np.einsum("ij,j...->i...", matrix, 2.5 * np.indices((5, 6, 7)))
    assert np.allclose(jacobian_determinant(points, 2.5), np.linalg.det(matrix))


def test_subjects_differ_in_anatomy_and_in_intensity(subjects: list[Subject]):
    def dice(a: np.ndarray, b: np.ndarray) -> float:
        return 2 * np.sum(a & b) / (np.sum(a) + np.sum(b))

    pairs = list(itertools.combinations(subjects, 2))
    for value in (2, 3):
        overlap = np.mean([dice(a.label == value, b.label == value) for a, b in pairs])
        assert 0.3 < overlap < 0.8
    gains = [np.percentile(s.image, 99) for s in subjects]
    assert max(gains) > 1.2 * min(gains)


def test_labels_are_the_tissues_of_the_image(subjects: list[Subject]):
    for subject in subjects:
        assert set(np.unique(subject.label)) == set(CLASSES)
        means = [subject.image[subject.label == value].mean() for value in CLASSES]
        # T1 weighting: air < fluid < grey < white.
        assert means == sorted(means)
        assert np.allclose(np.diag(subject.affine), [SPACING, SPACING, SPACING, 1])


def test_a_subject_depends_on_its_generator_alone(template: Template, subjects: list[Subject]):
    again = make_subject(template, np.random.default_rng([0, 2]))
    assert np.array_equal(again.image, subjects[2].image)
    assert np.array_equal(again.label, subjects[2].label)


def test_the_cohort_is_a_dataset(cohort: Path, subjects: list[Subject]):
    dataset = open_dataset(cohort)
    assert dataset.classes == CLASSES
    assert [case.name for case in dataset.cases] == ["subject_00", "subject_01"]
    image, label = dataset.read(dataset.cases[1])
    assert np.array_equal(image.array[0], subjects[1].image)
    assert np.array_equal(label.array[0], subjects[1].label)
    assert image.spacing == (SPACING,) * 3


def test_a_cohort_is_made_once(cohort: Path):
    before = {p: p.stat().st_mtime_ns for p in cohort.rglob("*")}
    assert demo_cohort(cohort, subjects=2, spacing_mm=SPACING) == cohort
    assert {p: p.stat().st_mtime_ns for p in cohort.rglob("*")} == before
    with pytest.raises(SitusError, match="another cohort"):
        demo_cohort(cohort, subjects=2, seed=1, spacing_mm=SPACING)


def test_wrong_requests_are_refused(tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.nii.gz").touch()
    with pytest.raises(SitusError, match="holds other images"):
        demo_cohort(tmp_path)
    with pytest.raises(SitusError, match="between 1 and 8"):
        load_template(0.1)
