"""Stores with other compression: the same voxels, checksums and places, at another size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import fsspec
import nibabel as nib
import numpy as np
import pytest

from situs.errors import StoreError
from situs.store import Preprocessing, Store, prepare
from situs.store import chunks as chunks_module
from situs.store.cache import open_array
from situs.store.check import check_store
from situs.store.chunks import StoredArray, write_array
from situs.store.paths import HEAD, array_file
from situs.store.preprocessing import Compression
from situs.store.upload import upload

SHAPES = [(70, 300, 20), (33, 40, 270), (9, 8, 7)]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans of several chunks and of one; chunks of one are nothing but air."""
    folder = tmp_path_factory.mktemp("scans")
    for number, shape in enumerate(SHAPES):
        noise = np.random.default_rng(number).normal(100, 20, shape).astype(np.float32)
        if number == 0:
            noise[:40] = 0
        nib.save(nib.Nifti1Image(noise, np.eye(4)), folder / f"s{number}.nii.gz")
    return folder


def made(scans: Path, out: Path, compression: Compression, dtype: str = "float16") -> Store:
    asked = {"spacing": "native", "crop": False, "compression": compression, "dtype": dtype}
    return prepare(scans, out, Preprocessing.model_validate(asked), workers=0)


def forget() -> None:
    """What a new process does not know yet."""
    open_array.cache_clear()
    chunks_module._WHOLE.clear()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_compression_keeps_the_same_voxels(scans: Path, tmp_path: Path, dtype: str) -> None:
    names = get_args(Compression)
    stores = {name: made(scans, tmp_path / name, name, dtype) for name in names}
    assert len({store.fingerprint for store in stores.values()}) == 1
    rng = np.random.default_rng(0)
    for number in range(len(SHAPES)):
        wholes = [store[number].array() for store in stores.values()]
        assert all(np.array_equal(wholes[0], other) for other in wholes)
        ((air,),) = {store[number].background for store in stores.values()}
        padded = np.pad(wholes[0], [(0, 0), *[(70, 70)] * 3], constant_values=air)
        for _ in range(12):
            size = rng.integers(1, 60, 3)
            start = [
                int(rng.integers(-size[axis], n)) for axis, n in enumerate(wholes[0].shape[1:])
            ]
            box = tuple(slice(a + 70, a + 70 + n) for a, n in zip(start, size, strict=True))
            for store in stores.values():
                assert np.array_equal(store[number].read(start, size), padded[:, *box])
    sizes = {name: sum(scan.record.bytes for scan in store) for name, store in stores.items()}
    voxels = sum(np.prod(shape) * np.dtype(dtype).itemsize for shape in SHAPES)
    assert sizes["zstd"] < sizes["lz4"] < sizes["none"] < 1.05 * voxels  # whole chunks


def test_channels_are_kept_apart(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(0, 1, (3, 40, 30, 20)).astype(np.float16)
    for name in get_args(Compression):
        file = tmp_path / "scans" / "aa" / f"{name}.b2nd"
        stored = StoredArray(file, *write_array(file, array, name))
        into = np.empty((2, 5, 30, 4), np.float32)
        stored.copy_to((slice(1, 3), slice(30, 35), slice(None), slice(2, 6)), into)
        assert np.array_equal(into, array[1:3, 30:35, :, 2:6])


def test_the_store_says_how_it_is_compressed_and_goes_on_so(scans: Path, tmp_path: Path) -> None:
    store = made(scans, tmp_path / "store", "none")
    assert json.loads((store.path / HEAD).read_text())["rules"]["compression"] == "none"
    with pytest.raises(StoreError, match="compression is none, asked for zstd"):
        made(scans, store.path, "zstd")


def test_a_store_from_before_there_was_a_choice_is_read_and_goes_on(
    scans: Path, tmp_path: Path
) -> None:
    store = made(scans, tmp_path / "store", "zstd")
    true = [scan.array() for scan in store]
    head = json.loads((store.path / HEAD).read_text())
    del head["seal"], head["rules"]["compression"]
    (store.path / HEAD).write_text(json.dumps(head))
    array_file(store.path, store[1].key).unlink()
    again = made(scans, store.path, "lz4")
    assert again.fingerprint == store.fingerprint
    assert again[0].record.checksum == store[0].record.checksum
    assert again[1].record.checksum != store[1].record.checksum
    assert all(np.array_equal(a, b.array()) for a, b in zip(true, again, strict=True))


def test_no_flipped_bit_of_plain_voxels_goes_unnoticed(scans: Path, tmp_path: Path) -> None:
    store = made(scans, tmp_path / "store", "none")
    true, file = store[0].array(), array_file(store.path, store[0].key)
    good, rng = file.read_bytes(), np.random.default_rng(5)
    raised = 0
    for _ in range(30):
        bad = bytearray(good)
        bad[int(rng.integers(len(good)))] ^= 1 << int(rng.integers(8))
        file.write_bytes(bad)
        forget()
        try:
            assert np.array_equal(store[0].array(), true)
        except StoreError:
            raised += 1
        assert len(check_store(store.path)) == 1
    assert raised == 30


def test_plain_voxels_are_fetched_piece_by_piece(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SITUS_CACHE", str(tmp_path / "cache"))
    store = made(scans, tmp_path / "store", "none")
    url = "memory://plain"
    fs, root = fsspec.core.url_to_fs(url)
    if fs.exists(root):
        fs.rm(root, recursive=True)
    upload(store.path, url)
    there = Store.open(url)
    crop = ((60, 10, 5), (8, 20, 10))
    assert np.array_equal(there[0].read(*crop), store[0].read(*crop))
    copy = array_file(there.path, there[0].key)
    assert copy.stat().st_blocks * 512 < 0.7 * store[0].record.bytes
    for a, b in zip(store, there, strict=True):
        assert np.array_equal(a.array(), b.array())
    copy.unlink()  # to make room, by another process
    assert np.array_equal(there[0].read(*crop), store[0].read(*crop))
