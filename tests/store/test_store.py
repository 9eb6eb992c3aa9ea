from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from situs.catalog.catalog import build_catalog
from situs.config import validate
from situs.errors import ConfigError, NotWritten, StoreError
from situs.scans import read_scan
from situs.store import Preprocessing, Store, estimate_bytes, prepare, preprocess, restore
from situs.store import prepare as prepare_function
from situs.store.paths import array_file, record_file
from situs.store.store import read_head

prepare_module = __import__("sys").modules[prepare_function.__module__]
RULES = Preprocessing(dtype="float32")


def write_scans(folder: Path, count: int, shape=(40, 36, 30)) -> Path:
    """Smooth blobs, of changing spacing and orientation."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    grid = np.indices(shape) - np.reshape(shape, (3, 1, 1, 1)) / 2
    for number in range(count):
        width = rng.uniform(6, 9, (3, 1, 1, 1))
        array = 800 * np.exp(-((grid / width) ** 2).sum(0)) + rng.normal(20, 5, shape)
        affine = np.diag([(-1.0) ** number, 1.0, 1.0 + number % 3, 1.0])
        image = nib.Nifti1Image(array.astype(np.float32), affine)
        nib.save(image, folder / f"scan_{number}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_scans(tmp_path_factory.mktemp("scans"), 5)
    (folder / "broken.nii.gz").write_bytes(b"")
    return folder


@pytest.fixture
def store(scans: Path, tmp_path: Path) -> Store:
    return prepare(scans, tmp_path / "store", RULES, workers=0)


@pytest.fixture
def prepared_keys(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the scans that are really preprocessed from now on."""
    keys: list[str] = []
    real = prepare_module._prepare_one

    def counting(job):
        keys.append(job.entry.key)
        return real(job)

    monkeypatch.setattr(prepare_module, "_prepare_one", counting)
    return keys


def test_a_store_holds_what_preprocessing_gives(scans: Path, store: Store):
    assert len(store) == 5
    assert store.preprocessing.spacing == (1.0, 1.0, 2.0)
    assert [r["reason"] for r in store.refused] == ["empty-file"]
    for scan in store:
        source = read_scan(scans / scan.record.source)
        expected = preprocess(source, store.preprocessing)
        assert np.array_equal(scan.array(), expected.array)
        assert np.allclose(scan.affine, expected.affine)
        assert scan.shape == expected.array.shape[1:]
        labels = (scan.array()[0] > 0).astype(np.int16)
        assert restore(labels, scan.change).shape == source.shape


def test_half_precision_is_enough(scans: Path, tmp_path: Path, store: Store):
    half = prepare(scans, tmp_path / "half", Preprocessing(), workers=0)
    for a, b in zip(half, store, strict=True):
        assert np.abs(a.array() - b.array()).max() < 4e-3
    assert half[0].record.bytes < store[0].record.bytes
    assert half.fingerprint != store.fingerprint


def test_crops_equal_slices_and_are_air_outside(store: Store):
    rng = np.random.default_rng(0)
    whole = store[0].array()
    (air,) = store[0].background
    padded = np.pad(whole, [(0, 0)] + [(100, 100)] * 3, constant_values=air)
    for _ in range(60):
        size = rng.integers(1, 50, 3)
        start = np.array([rng.integers(-60, n + 20) for n in store[0].shape])
        box = tuple(slice(s + 100, s + 100 + n) for s, n in zip(start, size, strict=True))
        assert np.array_equal(store[0].read(start, size), padded[(slice(None), *box)])


def test_a_crop_reads_only_its_chunks(tmp_path: Path):
    """Damage to one corner's chunk is not noticed by a crop of the opposite corner."""
    write_scans(tmp_path / "scans", 1, shape=(150, 70, 70))
    preprocessing = Preprocessing(crop=False, spacing="native")
    scan = prepare(tmp_path / "scans", tmp_path / "store", preprocessing, workers=0)[0]
    good = scan.read((100, 0, 0), (20, 20, 20))
    file = array_file(scan.store, scan.key)
    content = bytearray(file.read_bytes())
    content[len(content) // 16 : len(content) // 16 + 4000] = bytes(4000)
    file.write_bytes(content)
    fresh = Store.open(tmp_path / "store")
    assert fresh.damaged() == [scan.key]
    assert np.array_equal(fresh[0].read((100, 0, 0), (20, 20, 20)), good)
    with pytest.raises(StoreError, match=r"checksum does not fit.*prepare --verify"):
        fresh[0].read((0, 0, 0), (20, 20, 20))


def test_a_second_run_does_only_what_is_missing(scans: Path, store: Store, prepared_keys):
    again = prepare(scans, store.path, RULES, workers=0)
    assert prepared_keys == []
    assert again.fingerprint == store.fingerprint

    gone, cut, lost = (scan.key for scan in store[:3])
    array_file(store.path, gone).unlink()
    file = array_file(store.path, cut)
    file.write_bytes(file.read_bytes()[:-100])
    record_file(store.path, lost).write_text("{")
    with pytest.raises(StoreError, match=r"missing.*writes it again"):
        Store.open(store.path)[0].array()
    with pytest.raises(StoreError, match="bytes long instead of"):
        Store.open(store.path)[1].array()
    again = prepare(scans, store.path, RULES, workers=0)
    assert sorted(prepared_keys) == sorted([gone, cut, lost])
    assert again.fingerprint == store.fingerprint
    assert np.isfinite(again[0].array()).all()


def test_checksums_find_and_mend_silent_damage(scans: Path, store: Store, prepared_keys):
    file = array_file(store.path, store[3].key)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    assert store.damaged() == [store[3].key]
    prepare(scans, store.path, RULES, workers=0)
    assert prepared_keys == []
    mended = prepare(scans, store.path, RULES, workers=0, verify=True)
    assert prepared_keys == [store[3].key]
    assert mended.damaged() == []


def test_a_changed_or_moved_scan_is_prepared_anew(tmp_path: Path, prepared_keys):
    folder = write_scans(tmp_path / "scans", 3)
    first = prepare(folder, tmp_path / "store", RULES, workers=0)
    image = nib.load(folder / "scan_1.nii.gz")
    shifted = image.affine.copy()
    shifted[:3, 3] += 10
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), shifted), folder / "scan_1.nii.gz")
    (folder / "scan_2.nii.gz").unlink()
    prepared_keys.clear()
    second = prepare(folder, tmp_path / "store", RULES, workers=0)
    assert prepared_keys == [first[1].key]
    assert len(second) == 2
    assert second.fingerprint != first.fingerprint
    assert np.allclose(second[1].affine[:3, 3] - first[1].affine[:3, 3], 10)
    with pytest.raises(StoreError, match="while it was in use"):
        pickle.loads(pickle.dumps(first))


@pytest.mark.slow
def test_a_killed_worker_costs_one_scan_and_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = write_scans(tmp_path / "scans", 3)
    catalog = build_catalog(folder, workers=0)
    monkeypatch.setattr(prepare_module, "_prepare_one", _killed_while_writing)
    store = prepare(catalog, tmp_path / "store", RULES, workers=1)
    assert [r["reason"] for r in store.refused] == ["crashed"]
    assert len(store) == 2
    assert all(np.isfinite(s.array()).all() for s in store)
    monkeypatch.undo()
    assert len(prepare(catalog, tmp_path / "store", RULES, workers=0)) == 3


def _killed_while_writing(job):
    if job.entry.path == "scan_1.nii.gz":
        file = array_file(job.store, job.entry.key)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"the first bytes of a scan")
        os.kill(os.getpid(), signal.SIGKILL)
    return prepare_module._prepare_one(job)


def test_an_interrupted_store_is_not_read_and_goes_on(
    scans: Path, tmp_path: Path, prepared_keys, monkeypatch: pytest.MonkeyPatch
):
    done = 0

    def stop_after_two(what: str, number: int, total: int) -> None:
        nonlocal done
        if what == "scans to prepare":
            done = number
            if number == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(scans, tmp_path / "store", RULES, workers=0, progress=stop_after_two)
    with pytest.raises(StoreError, match="unfinished"):
        Store.open(tmp_path / "store")
    assert len(prepared_keys) == done == 2
    assert len(prepare(scans, tmp_path / "store", RULES, workers=0)) == 5
    assert len(set(prepared_keys)) == len(prepared_keys) == 5


def test_other_settings_are_named(scans: Path, store: Store):
    other = Preprocessing(dtype="float16", margin_mm=9)
    message = "margin_mm is 4.0, asked for 9.0; dtype is float32, asked for float16"
    with pytest.raises(StoreError, match=message):
        prepare(scans, store.path, other, workers=0)
    with pytest.raises(StoreError, match="dtype is float32"):
        Store.open(store.path, other)
    # The median written out is the same setting.
    assert Store.open(store.path, store.preprocessing).preprocessing == store.preprocessing


def test_foreign_folders_and_useless_data_are_refused(scans: Path, tmp_path: Path):
    with pytest.raises(StoreError, match="no store at"):
        Store.open(tmp_path)
    with pytest.raises(StoreError, match="is no store"):
        prepare(scans, scans.parent, RULES, workers=0)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.nii").write_bytes(b"")
    with pytest.raises(StoreError, match=r"no scan can be used \(empty-file"):
        prepare(tmp_path / "bad", tmp_path / "store", workers=0)
    # A mistyped folder settles nothing: the right one goes into the same store.
    assert not (tmp_path / "store").exists()
    assert len(prepare(scans, tmp_path / "store", workers=0)) == 5


@pytest.mark.parametrize("spacing", [800.0, 30.0, 0.0008])
def test_a_voxel_size_in_another_unit_is_refused_by_name(tmp_path: Path, spacing: float):
    folder = write_scans(tmp_path / "scans", 3)
    odd = nib.load(sorted(folder.iterdir())[0])
    image = nib.Nifti1Image(np.asarray(odd.dataobj)[::-1] + 7, np.diag([spacing] * 3 + [1]))
    nib.save(image, folder / "odd.nii.gz")
    made = prepare(folder, tmp_path / "store", workers=0)
    assert len(made) == 3
    (refusal,) = made.refused
    assert (refusal["source"], refusal["reason"]) == ("odd.nii.gz", "absurd-spacing")
    assert f"{spacing:g}×{spacing:g}×{spacing:g} mm" in refusal["detail"]


def test_a_scan_that_preparation_makes_blank_is_refused(tmp_path: Path):
    write_scans(tmp_path / "in", 1)
    blank = np.zeros((20, 20, 20), np.float32)
    blank[4:16, 4:16, 4:16] = 0.5  # a body of one value, but for one voxel that clipping takes
    blank[8, 8, 8] = 0.25
    nib.save(nib.Nifti1Image(blank, np.eye(4)), tmp_path / "in" / "blank.nii.gz")
    assert len(build_catalog(tmp_path / "in", workers=0).accepted) == 2
    made = prepare(tmp_path / "in", tmp_path / "out", workers=0)
    assert len(made) == 1
    (refusal,) = made.refused
    assert (refusal["source"], refusal["reason"]) == ("blank.nii.gz", "constant-image")
    assert "once prepared" in refusal["detail"]


def test_a_full_disk_stops_before_and_while_writing(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        usage = prepare_module.shutil.disk_usage(tmp_path)._replace(free=1000)
        patch.setattr(prepare_module.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(StoreError, match=r"KiB and the disk of .* has 1000 bytes free"):
            prepare(scans, tmp_path / "store", RULES, workers=0)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare_module, "write_array", full)
    with pytest.raises(NotWritten, match="No space left"):
        prepare(scans, tmp_path / "store", RULES, workers=0)


def test_the_estimate_bounds_the_store(scans: Path, store: Store):
    catalog = build_catalog(scans, workers=0)
    estimate = estimate_bytes(catalog.unique, store.preprocessing)
    voxels = sum(np.prod(scan.shape) * 4 for scan in store)
    assert voxels <= estimate < 4 * voxels


def test_fingerprint_does_not_depend_on_place_or_workers(scans: Path, store: Store, tmp_path):
    elsewhere = tmp_path / "moved" / "deeper"
    elsewhere.mkdir(parents=True)
    for number in range(5):
        name = f"scan_{number}.nii.gz"
        (elsewhere / f"x_{name}").write_bytes((scans / name).read_bytes())
    catalog = build_catalog(elsewhere, root=tmp_path, workers=0)
    catalog.save(tmp_path / "catalog")
    other = prepare(tmp_path / "catalog", tmp_path / "other", RULES, workers=2)
    assert other.fingerprint == store.fingerprint
    assert {s.key for s in other}.isdisjoint(s.key for s in store)


def test_stores_and_scans_pickle_small(store: Store):
    store[0].array()
    assert len(pickle.dumps(store)) < 500
    assert len(pickle.dumps(store[0])) < 3000
    again = pickle.loads(pickle.dumps(store))
    assert again.fingerprint == store.fingerprint
    scan = pickle.loads(pickle.dumps(store[0]))
    assert np.array_equal(scan.array(), store[0].array())


def test_studies_group_and_single_scans_stand_alone(store: Store):
    assert [len(study) for study in store.studies()] == [1] * 5
    records = [scan.record for scan in store]
    one = [record.model_copy(update={"study": "abcd"}) for record in records[:3]]
    grouped = Store(store.path, read_head(store.path), [*one, *records[3:]])
    assert [len(study) for study in grouped.studies()] == [3, 1, 1]


def test_a_hostile_key_cannot_leave_the_store(store: Store):
    records = (store.path / "records.jsonl").read_text()
    (store.path / "records.jsonl").write_text(records.replace(store[0].key, "../../../../etc"))
    with pytest.raises(StoreError, match="is damaged"):
        Store.open(store.path)


def test_real_dicom_study(shared_data: Path, tmp_path: Path):
    store = prepare(shared_data / "dicom" / "study-003", tmp_path / "store", workers=0)
    assert len(store) >= 4
    largest = max(store.studies(), key=len)
    assert {"t1", "flair"} <= {w for s in largest for w in s.description.split()}
    # One frame of reference: the volumes overlap in world coordinates.
    centres = [s.affine @ [*(np.array(s.shape) / 2), 1] for s in largest]
    assert np.ptp(centres, axis=0).max() < 60


def test_configuration_is_checked_by_name():
    with pytest.raises(ConfigError, match="dtype"):
        validate(Preprocessing, {"dtype": "int8"})
