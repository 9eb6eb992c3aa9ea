from __future__ import annotations

import itertools
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from situs.config import validate
from situs.errors import ConfigError, SitusError
from situs.scans import Scan, read_scan
from situs.store import Preprocessing, preprocess, restore, restore_largest
from situs.store.grid import resample, resample_labels
from situs.store.intensity import foreground_box, intensity_kind, scaling, threshold

WHOLE = Preprocessing(crop=False, spacing="native")
AXES = list(itertools.permutations(range(3)))


def scan_of(array: np.ndarray, affine: np.ndarray | None = None, modality: str = "MR") -> Scan:
    return Scan(array[None], np.eye(4) if affine is None else affine, modality)


def turned_affine(order: tuple[int, ...], signs: list[int], spacing: list[float]) -> np.ndarray:
    """Axis ``a`` of the array runs along world axis ``order[a]``."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign, mm) in enumerate(zip(order, signs, spacing, strict=True)):
        affine[world, axis] = sign * mm
    affine[:3, 3] = (7.0, -31.0, 12.5)
    return affine


def normalised(array: np.ndarray, kind) -> np.ndarray:
    return scaling(array[0], (1.0, 1.0, 1.0), kind, Preprocessing()).apply(array[0])[None]


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    grid = np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))
    return np.linalg.norm(grid, axis=0) < radius


geometries = st.tuples(
    st.sampled_from(AXES),
    st.lists(st.sampled_from([-1, 1]), min_size=3, max_size=3),
    st.lists(st.floats(0.6, 3.0), min_size=3, max_size=3),
    st.floats(-0.5, 0.5),
    st.integers(0, 2**31),
)


@given(geometries, st.sampled_from(["native", "resampled"]))
@settings(max_examples=25, deadline=None)
def test_the_affine_follows_the_voxels(geometry, spacing):
    """A linear function of world position survives every change of grid, at every voxel."""
    order, signs, mm, angle, seed = geometry
    rng = np.random.default_rng(seed)
    affine = turned_affine(order, signs, mm)
    affine[:3] = Rotation.from_rotvec(angle * np.array([0.3, -0.5, 0.8])).as_matrix() @ affine[:3]
    shape = tuple(rng.integers(12, 20, 3))
    direction = np.array([0.7, -0.2, 0.5])
    world = np.einsum("ij,j...->i...", affine[:3, :3], np.indices(shape))
    world += affine[:3, 3, None, None, None]
    ramp = np.einsum("i,i...->...", direction, world)
    offset = ramp.max() + 100
    ramp -= offset  # below zero, so that it passes as HU: scaled, nothing clipped
    low, high = float(ramp.min()) - 1, 0.0
    target = "native" if spacing == "native" else (1.5, 1.2, 0.9)
    rules = Preprocessing(crop=False, spacing=target, ct_window=(low, high))
    prepared = preprocess(Scan(ramp[None], affine, "CT"), rules)

    there = np.einsum("ij,j...->i...", prepared.affine[:3, :3], np.indices(prepared.change.shape))
    there += prepared.affine[:3, 3, None, None, None]
    expected = np.einsum("i,i...->...", direction, there) - offset
    got = (prepared.array[0] + 1) * (high - low) / 2 + low
    # Near a border the smoothing and the nearest value bend the ramp.
    inner = tuple(slice(3, -3) for _ in range(3))
    assert np.abs(got - expected)[inner].max(initial=0) < 1e-3
    assert np.all(np.diag(prepared.affine[:3, :3] @ np.diag(1 / np.array(prepared.spacing))) > 0.5)
    assert np.linalg.det(prepared.affine[:3, :3]) > 0


@given(geometries)
@settings(max_examples=25, deadline=None)
def test_restore_undoes_orientation_and_crop_exactly(geometry):
    order, signs, mm, _, seed = geometry
    rng = np.random.default_rng(seed)
    array = np.zeros((24, 22, 20))
    array[6:17, 5:16, 4:15] = rng.uniform(50, 100, (11, 11, 11))
    label = np.zeros(array.shape, np.uint8)
    label[7:16, 6:15, 5:14] = rng.integers(0, 4, (9, 9, 9))
    affine = turned_affine(order, signs, mm)
    rules = Preprocessing(spacing="native", margin_mm=0)
    prepared = preprocess(scan_of(array, affine), rules, label=scan_of(label, affine))
    assert np.array_equal(restore(prepared.label, prepared), label)
    inside = restore(np.stack([prepared.array[0], np.ones(prepared.change.shape)]), prepared)
    assert inside.shape == (2, *array.shape)
    assert inside[1][array > 0].all()


def test_labels_go_to_another_spacing_and_back():
    label = ball((40, 44, 30), (19, 22, 14), 11).astype(np.uint8)
    label[ball((40, 44, 30), (24, 22, 14), 6)] = 2
    affine = turned_affine((1, 0, 2), [-1, 1, 1], [0.8, 0.9, 1.4])
    image = scan_of(label * 100.0 + 5, affine)
    rules = Preprocessing(spacing=(1.0, 1.0, 1.0))
    prepared = preprocess(image, rules, label=scan_of(label, affine))
    back = restore(prepared.label, prepared)
    for value in (1, 2):
        dice = 2 * np.sum((back == value) & (label == value))
        assert dice / (np.sum(back == value) + np.sum(label == value)) > 0.95
    # Volumes in mm³ are kept, so that there is no systematic shrinking.
    for value in (1, 2):
        volume = np.sum(prepared.label == value) * np.prod(prepared.spacing)
        assert volume == pytest.approx(np.sum(label == value) * 0.8 * 0.9 * 1.4, rel=0.04)


@given(geometries, st.sampled_from(["native", (2.0, 1.5, 1.1)]))
@settings(max_examples=15, deadline=None)
def test_the_largest_channel_is_that_of_all_channels(geometry, spacing):
    order, signs, mm, _, seed = geometry
    rng = np.random.default_rng(seed)
    array = np.zeros((18, 15, 12), np.float32)
    array[4:14, 3:12, 2:10] = 100 + rng.normal(size=(10, 9, 8))
    scan = scan_of(array, turned_affine(order, signs, mm))
    prepared = preprocess(scan, Preprocessing(spacing=spacing, margin_mm=0.0))
    # Few values, so that there are ties.
    values = rng.integers(0, 3, (4, *prepared.change.shape)).astype(np.float32)
    largest = restore_largest(values, prepared)
    assert np.array_equal(largest, restore(values, prepared).argmax(0))
    assert largest.dtype == np.int16


def test_channels_go_back_one_at_a_time():
    array = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
    prepared = preprocess(scan_of(array), Preprocessing(crop=False, spacing=(1.3, 1.3, 1.3)))
    values = np.zeros((30, *prepared.change.shape), np.float32)
    tracemalloc.start()
    restore_largest(values, prepared)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * array.nbytes, "thirty classes do not lie in memory together"


def test_restored_probabilities_agree_with_simpleitk():
    rng = np.random.default_rng(0)
    affine = turned_affine((0, 1, 2), [1, 1, 1], [1.0, 1.3, 1.6])
    scan = scan_of(rng.uniform(1, 2, (20, 18, 12)), affine)
    prepared = preprocess(scan, Preprocessing(spacing=(1.7, 1.7, 1.7), crop=False))
    values = rng.uniform(size=(2, *prepared.change.shape)).astype(np.float32)
    ours = restore(values, prepared)

    image = SimpleITK.GetImageFromArray(values[1].transpose(2, 1, 0))
    image.SetSpacing(prepared.spacing)
    image.SetOrigin(prepared.affine[:3, 3].tolist())
    reference = SimpleITK.GetImageFromArray(np.zeros((12, 18, 20), np.float32))
    reference.SetSpacing(scan.spacing)
    reference.SetOrigin(affine[:3, 3].tolist())
    itk = SimpleITK.GetArrayFromImage(SimpleITK.Resample(image, reference)).transpose(2, 1, 0)
    inner = np.s_[2:-2, 2:-2, 2:-2]
    assert np.abs(ours[1][inner] - itk[inner]).max() < 1e-5


def test_downsampling_removes_what_the_new_grid_cannot_hold():
    stripes = np.tile([1.0, -1.0], 32)[:, None, None] * np.ones((64, 9, 9))
    coarse = resample(stripes[None], (21, 9, 9), (64 / 21, 1, 1))
    assert np.abs(coarse[0, 3:-3]).max() < 0.05
    slow = np.cos(2 * np.pi * np.arange(64) / 32)[:, None, None] * np.ones((64, 9, 9))
    assert np.abs(resample(slow[None], (21, 9, 9), (64 / 21, 1, 1))).max() > 0.85


def test_label_resampling_matches_one_hot_by_brute_force():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, (11, 9, 10)) * 3
    scale = (0.6, 1.0, 0.7)
    shape = (18, 9, 14)
    one_hot = np.stack([labels == v for v in (0, 3, 6, 9)])
    expected = np.array([0, 3, 6, 9])[resample(one_hot, shape, scale).argmax(0)]
    assert np.array_equal(resample_labels(labels, shape, scale), expected)


def noisy_head(seed: int = 0) -> np.ndarray:
    """A bright ball in a field of view four times as wide, in Rician noise."""
    rng = np.random.default_rng(seed)
    body = ball((80, 70, 60), (40, 34, 30), 18) * 400.0
    return np.hypot(body + rng.normal(0, 12, body.shape), rng.normal(0, 12, body.shape))


@pytest.mark.parametrize("noise_peak", [0.0, 1e6])
def test_crop_finds_the_body_in_noise(noise_peak):
    head = noisy_head()
    head[2, 3, 4] = noise_peak  # a single hot voxel in air is no body
    start, stop = foreground_box(head[None], (1.0, 1.0, 1.0), ["relative"], 4.0)
    for axis, centre in enumerate((40, 34, 30)):
        assert start[axis] <= centre - 18
        assert stop[axis] >= centre + 18
        assert stop[axis] - start[axis] <= 36 + 2 * 12


def test_crop_of_ct_ignores_air_and_padding():
    rng = np.random.default_rng(0)
    ct = np.where(ball((60, 60, 40), (30, 30, 20), 15), 40.0, -1000.0)
    ct += rng.normal(0, 20, ct.shape)
    ct[26:34, 26:34, 18:22] += 900  # bone
    ct[:4] = -3024  # what scanners write outside the reconstructed circle
    assert intensity_kind(ct, "unknown") == "hounsfield"
    start, stop = foreground_box(ct[None], (1.0, 1.0, 1.0), ["hounsfield"], 0.0)
    assert all(s <= c - 14 for s, c in zip(start, (30, 30, 20), strict=True))
    assert all(s >= c - 20 for s, c in zip(start, (30, 30, 20), strict=True))
    assert all(s <= c + 20 for s, c in zip(stop, (30, 30, 20), strict=True))


def test_nothing_is_cut_from_a_scan_that_is_body_throughout():
    rng = np.random.default_rng(0)
    full = rng.gamma(4.0, 100.0, (1, 30, 40, 32))
    assert foreground_box(full, (1.0, 1.0, 1.0), ["relative"], 0.0) == ((0, 0, 0), (30, 40, 32))


@pytest.mark.parametrize(
    ("values", "modality", "kind"),
    [
        ((-1000.0, 1500.0), "CT", "hounsfield"),
        ((0.0, 255.0), "CT", "relative"),  # eight-bit export
        ((0.0, 4095.0), "CT", "relative"),  # stored without the intercept
        ((0.0, 900.0), "unknown", "relative"),
        ((-4096.0, 4095.0), "unknown", "relative"),  # phase image
        ((-1000.0, 1500.0), "MR", "relative"),
    ],
)
def test_hounsfield_window_only_where_values_are_hounsfield(values, modality, kind):
    array = np.random.default_rng(0).uniform(*values, (20, 20, 20))
    assert intensity_kind(array, modality) == kind


def test_ct_window_is_linear_and_clipped():
    ct = np.array([-3024.0, -1000.0, 0.0, 500.0, 1000.0, 3000.0]).reshape(1, 6, 1, 1)
    out = normalised(ct, "hounsfield")
    assert np.allclose(out.ravel(), [-1, -1, 0, 0.5, 1, 1])


@given(st.floats(0.01, 1e4), st.integers(0, 100))
@settings(max_examples=15, deadline=None)
def test_relative_intensities_do_not_depend_on_the_scanner_gain(gain, seed):
    head = noisy_head(seed)[None]
    one = normalised(head, "relative")
    other = normalised(head * gain, "relative")
    assert np.abs(one - other).max() < 1e-3
    body = one[0][ball((80, 70, 60), (40, 34, 30), 16)]
    assert abs(body.mean()) < 0.1


def test_a_few_huge_values_do_not_flatten_the_rest():
    head = noisy_head()
    head[40, 34, 30:34] = 1e6
    out = normalised(head[None], "relative")
    assert out.max() < 10
    assert out.std() > 0.2


def ct_and_pet(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    body = ball((60, 60, 40), (30, 30, 20), 15)
    ct = np.where(body, 40.0, -1000.0) + rng.normal(0, 20, body.shape)
    ct[26:34, 26:34, 18:22] += 900  # bone
    pet = np.abs(rng.normal(1, 0.3, body.shape)) * body + 8 * ball(body.shape, (28, 30, 20), 4)
    return ct.astype(np.float32), pet.astype(np.float32)


@pytest.mark.parametrize("unit", [1.0, 5000.0])  # SUV, Bq/ml
@pytest.mark.parametrize("named", [True, False])
def test_every_channel_has_its_own_rule(unit, named):
    ct, pet = ct_and_pet()
    modalities = ("CT", "PT") if named else ("unknown", "unknown")
    scan = replace(scan_of(ct), array=np.stack([ct, unit * pet]), modalities=modalities)
    both = preprocess(scan, WHOLE)
    assert both.intensity == ("hounsfield", "relative")
    # As each would be alone, bit by bit: as it was pretrained on.
    alone = [preprocess(scan_of(c, modality="unknown"), WHOLE) for c in (ct, unit * pet)]
    assert np.array_equal(both.array, np.concatenate([one.array for one in alone]))
    body = pet > 0
    assert np.abs(both.array[1][body].mean()) < 0.05
    assert both.array[1].std() > 0.1
    cropped = preprocess(scan, Preprocessing(spacing="native", margin_mm=0))
    assert max(cropped.array.shape[1:]) < 40


def test_negative_values_beside_ct_are_no_hounsfield_units():
    ct, pet = ct_and_pet()
    scan = replace(scan_of(ct), array=np.stack([ct, 1000 * (pet - 1)]), modality="CT")
    assert preprocess(scan, WHOLE).intensity == ("hounsfield", "hounsfield")
    scan = replace(scan, modalities=("CT", "PT"))
    assert preprocess(scan, WHOLE).intensity == ("hounsfield", "relative")


def test_one_channel_is_what_it_always_was():
    # Stores and studies that are there already must stay valid: the rules written out.
    ct, _ = ct_and_pet()
    out = np.empty_like(ct)
    np.clip(ct, -1000, 1000, out=out)
    assert np.array_equal(
        preprocess(scan_of(ct, modality="CT"), WHOLE).array[0], out / np.float32(1000)
    )
    head = noisy_head().astype(np.float32)
    values = head.astype(np.float64).ravel()
    body = values[values > threshold(head, (1.0, 1.0, 1.0), "relative")]
    low, high = np.percentile(body, (0.5, 99.5))
    body = np.clip(body, low, high)
    expected = np.clip(head, low, high, casting="unsafe", dtype=np.float32) - body.mean()
    expected = (expected / body.std()).astype(np.float32)
    assert np.allclose(preprocess(scan_of(head), WHOLE).array[0], expected, rtol=0, atol=1e-6)


def test_median_needs_a_number_and_absurd_spacing_is_refused():
    scan = scan_of(noisy_head())
    with pytest.raises(ConfigError, match="pass spacing_mm"):
        preprocess(scan, Preprocessing())
    assert preprocess(scan, Preprocessing(), spacing_mm=(2, 2, 2)).spacing == (2, 2, 2)
    with pytest.raises(ConfigError, match="choose a larger one"):
        preprocess(scan, Preprocessing(spacing=(1e-3, 1e-3, 1e-3)))


def test_mismatched_labels_are_errors():
    scan = scan_of(noisy_head())
    with pytest.raises(SitusError, match="resample the label"):
        preprocess(scan, WHOLE, label=scan_of(np.zeros((3, 3, 3))))
    prepared = preprocess(scan, WHOLE)
    with pytest.raises(SitusError, match="expected values on the grid"):
        restore(np.zeros((3, 3, 3), int), prepared)


def test_rules_are_strict_and_name_what_is_wrong():
    with pytest.raises(ConfigError, match="did you mean 'spacing'"):
        validate(Preprocessing, {"spacin": "native"})
    with pytest.raises(ConfigError, match="low < high"):
        validate(Preprocessing, {"ct_window": [100, -100]})
    assert Preprocessing().resolved((1, 1, 2)).spacing == (1, 1, 2)
    assert Preprocessing(spacing="native").resolved((1, 1, 2)).spacing == "native"


def test_real_scans(shared_data: Path):
    for path in sorted((shared_data / "hippocampus" / "images").iterdir())[:12]:
        scan = read_scan(path)
        prepared = preprocess(scan, Preprocessing(spacing="native"))
        assert prepared.change.cropped_shape == prepared.change.oriented_shape
        label = read_scan(shared_data / "hippocampus" / "labels" / path.name)
        back = restore(preprocess(scan, Preprocessing(spacing="native"), label).label, prepared)
        assert np.array_equal(back, label.array[0])
        assert 0.8 < prepared.array.std() < 1.2
    for name in ("CT_AVM.nii.gz", "MR_Gd.nii.gz"):
        scan = read_scan(shared_data / "nifti" / name)
        prepared = preprocess(scan, Preprocessing(spacing=(2.0, 2.0, 2.0)))
        assert prepared.intensity == ("relative",)
        assert np.abs(prepared.array).max() < 20
        mask = restore(np.ones(prepared.change.shape, int), prepared)
        body = scan.array[0] > np.percentile(scan.array, 99) * 0.3
        assert mask[body].mean() > 0.999
