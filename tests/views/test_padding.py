"""One rule for what lies outside a scan: every reader continues it as its own air."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from situs.backbones import BackboneConfig, build
from situs.geometry import Plane
from situs.methods.s2dc.motion import moved_copy
from situs.scans import Scan
from situs.store import Preprocessing, Store, prepare, preprocess
from situs.store.grid import GridChange
from situs.store.preprocess import Prepared
from situs.transfer import windows
from situs.transfer.cases import PreparedCase
from situs.transfer.config import Augmentation
from situs.transfer.features import scan_feature, voxel_features
from situs.transfer.patches import Framing, PatchSampler
from situs.views import ArraySource
from situs.views.planes import cut_planes

AIR = (-1.7, 0.4)
WIDE = 20  # voxels of air around the same scan, further than any reader below looks


@pytest.fixture(scope="module")
def scan() -> np.ndarray:
    """A scan that is anatomy up to its border, so that nothing is air by itself."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 18, 15, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def padded(scan: np.ndarray) -> np.ndarray:
    return np.stack(
        [np.pad(c, WIDE, constant_values=air) for c, air in zip(scan, AIR, strict=True)]
    ).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    options = {"channels": [4, 8], "norm": "group"}
    return build(BackboneConfig(name="cnn", in_channels=2, options=options)).eval()


def prepared(array: np.ndarray) -> Prepared:
    shape = array.shape[1:]
    change = GridChange(shape, (0, 1, 2), (False,) * 3, (0, 0, 0), shape, shape, (1.0, 1.0, 1.0))
    return Prepared(array, np.eye(4), None, "MR", ("relative",) * 2, change, AIR)


def test_crops_moved_copies_and_slices_read_the_same_air(scan, padded):
    source, wide = ArraySource(scan, air=AIR), ArraySource(padded, air=AIR)
    start = np.array([-5, 9, -3])
    assert np.array_equal(source.read(start, (16, 16, 16)), wide.read(start + WIDE, (16, 16, 16)))
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", [20, -15, 30], degrees=True).as_matrix() * 1.1
    motion[:3, 3] = (3, -4, 2)
    assert np.allclose(
        moved_copy(source, start, (16, 16, 16), motion),
        moved_copy(wide, start + WIDE, (16, 16, 16), motion),
        atol=1e-5,
    )
    rows = Rotation.from_euler("xyz", [10, 25, -5], degrees=True).as_matrix()
    corner = np.array([-4.0, -6.0, -2.0])
    planes = [Plane(corner + shift, rows[0], rows[1], (24, 26), (1.0, 1.0)) for shift in (0, WIDE)]
    near, far = cut_planes(source, planes[:1]), cut_planes(wide, planes[1:])
    assert np.allclose(near, far, atol=1e-5)
    for channel, air in enumerate(AIR):
        assert (np.abs(near[0, channel] - air) < 1e-5).any()  # the view reaches outside


@pytest.mark.parametrize("axis", [None, 2])
def test_fine_tuning_patches_and_windows_read_the_same_air(scan, padded, axis):
    def patches(array, mean_shift):
        case = PreparedCase("a", prepared(array), np.eye(4), target=np.array(0))
        size = (32, 32, 32) if axis is None else (32, 32)
        change = Augmentation(flip_axes=(0,), noise=0, gamma=0, contrast=0, brightness=0)
        sampler = PatchSampler([case], Framing(size, axis), 4, change, 0.0, seed=3)
        sampler._start = lambda case, size, rng: (  # type: ignore[method-assign]
            np.array(framing_start(size)) + mean_shift
        ).tolist()
        return sampler.batch(0)["image"]

    def framing_start(size):
        return [(n - k) // 2 if k > 1 else 5 for n, k in zip(scan.shape[1:], size, strict=True)]

    assert torch.allclose(patches(scan, 0), patches(padded, WIDE), atol=1e-4)


def test_predictions_and_features_see_the_same_air(scan, padded, network):
    head = torch.nn.Conv3d(network.decoder_channels, 3, 1)
    model = torch.nn.Sequential(network, head).eval()
    framing = Framing((32, 32, 32))
    low = [(32 - n) // 2 for n in scan.shape[1:]]  # where a window of 32 puts the scan
    inside = tuple(slice(a, a + n) for a, n in zip(low, scan.shape[1:], strict=True))
    window = padded[(slice(None), *(slice(WIDE - a, WIDE - a + 32) for a in low))]
    got = windows.segment(model, torch.from_numpy(scan), framing, background=AIR)
    want = windows.segment(model, torch.from_numpy(window), framing)
    assert got.shape[1:] == scan.shape[1:]
    assert torch.allclose(got, want[(slice(None), *inside)], atol=1e-5)
    # The encoder's divisor is 2: one voxel of air fills up the axis of 15.
    even = padded[:, WIDE : WIDE + 18, WIDE : WIDE + 16, WIDE : WIDE + 12]
    assert np.allclose(
        scan_feature(network, scan, background=AIR), scan_feature(network, even), atol=1e-5
    )
    voxels = np.argwhere(np.ones(scan.shape[1:]))[::7]
    assert np.allclose(
        voxel_features(network, scan, voxels, background=AIR),
        voxel_features(network, even, voxels),
        atol=1e-5,
    )


def head_with_air(kind: str) -> Scan:
    """A body in air, in values of its own kind; the air is wide and constant."""
    rng = np.random.default_rng(1)
    grid = np.indices((44, 40, 36)) - np.reshape((22, 20, 18), (3, 1, 1, 1))
    body = np.linalg.norm(grid, axis=0) < 11
    texture = ndimage.gaussian_filter(rng.normal(size=body.shape), 1) * 4 + 3
    if kind == "CT":
        return Scan(np.where(body, 100 * texture, -1024.0)[None], np.eye(4), "CT")
    return Scan(np.where(body, 50 * texture + 200, 4.0)[None], np.eye(4), "MR")


@pytest.mark.parametrize("kind", ["MR", "CT"])
def test_what_preprocessing_cropped_away_is_what_lies_outside(kind, network):
    scan = head_with_air(kind)
    whole = preprocess(scan, Preprocessing(crop=False, spacing="native"))
    cropped = preprocess(scan, Preprocessing(margin_mm=0, spacing="native"))
    start = cropped.change.start
    size = tuple(32 for _ in range(3))
    source = ArraySource(cropped.array, air=cropped.background)
    over = source.read([-5, -5, -5], size)
    # Normalised from the crop's own values, so the whole scan's voxels are brought there first.
    (slope, shift) = np.polyfit(
        whole.array[(0, *map(slice, start, cropped.change.stop))].ravel()[::5],
        cropped.array[0].ravel()[::5],
        1,
    )
    true = ArraySource(whole.array * slope + shift).read([s - 5 for s in start], size)
    assert np.abs(over - true).max() < 2e-3
    image = np.repeat(np.stack([over, true]), 2, axis=1)  # the network takes two channels
    got, want = (f.detach() for f in network(torch.from_numpy(image)))
    assert float((got - want).norm() / want.norm()) < 2e-3
    zeros = np.where(true == true.min(), 0, true)
    tissue = network(torch.from_numpy(np.repeat(zeros[None], 2, axis=1)))[0].detach()
    assert float((tissue - want).norm() / want.norm()) > 0.1  # what padding with 0 cost


def test_noise_in_the_air_and_a_scan_without_air():
    rng = np.random.default_rng(0)
    scan = head_with_air("MR")
    noisy = Scan(scan.array + np.abs(rng.normal(0, 3, scan.array.shape)), scan.affine, "MR")
    (value,) = preprocess(noisy, Preprocessing(spacing="native")).background
    prepared_scan = preprocess(noisy, Preprocessing(crop=False, spacing="native"))
    assert value == pytest.approx(np.median(prepared_scan.array[0, :6]), abs=0.1)
    inside = Scan(scan.array[:, 16:28, 14:26, 12:24], scan.affine, "MR")
    crop = preprocess(inside, Preprocessing(spacing="native"))
    assert crop.background[0] <= np.percentile(crop.array, 10)
    constant = Scan(np.full((1, 8, 8, 8), 5.0), np.eye(4), "MR")
    assert np.allclose(preprocess(constant, Preprocessing(spacing="native")).background, 0)


def test_an_array_that_says_nothing_is_continued_by_its_least_value(scan):
    assert ArraySource(scan).background == tuple(c.min() for c in scan)


def test_a_store_keeps_the_air_and_one_of_before_still_reads(head_store: Path, tmp_path: Path):
    stored = Store.open(head_store)[0]
    (air,) = stored.record.background
    over = stored.read((-3, 0, 0), (8, 8, 8))
    assert (over[:, :3] == np.float32(air)).all()
    assert np.abs(stored.array()[0] - air).min() == 0  # rounded as the voxels are
    old = tmp_path / "old"
    shutil.copytree(head_store, old)
    records = old / "records.jsonl"
    lines = records.read_text()
    assert '"background":[' in lines
    records.write_text(lines.replace(f'"background":[{air}],', ""))
    head = json.loads((old / "store.json").read_text())
    kept = {key: value for key, value in head.items() if key not in ("seal", "records_checksum")}
    (old / "store.json").write_text(json.dumps(kept))
    before = Store.open(old)[0]
    assert before.record.background == ()
    assert before.background == (float(before.array().min()),)
    assert (before.read((-3, 0, 0), (8, 8, 8))[:, :3] == np.float32(before.background[0])).all()


@pytest.fixture(scope="module")
def head_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("air")
    (folder / "scans").mkdir()
    scan = head_with_air("MR")
    nib.save(nib.Nifti1Image(scan.array[0], scan.affine), folder / "scans" / "head.nii.gz")
    prepare(folder / "scans", folder / "store", Preprocessing(spacing="native"), workers=0)
    return folder / "store"
