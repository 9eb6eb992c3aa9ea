"""Bits that a disk or a copy changed: told by name, never read as if nothing were."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from situs.errors import StoreError
from situs.store import Preprocessing, Store, prepare
from situs.store import chunks as chunks_module
from situs.store.cache import open_array
from situs.store.check import check_store
from situs.store.paths import INDEX, array_file, sums_file

# `make faults` tries more.
FLIPS = 60 * int(os.environ.get("SITUS_FAULTS", "1"))


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two scans of several chunks; one with chunks of nothing but air, which take no place."""
    folder = tmp_path / "scans"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for number in range(2):
        array = rng.normal(100, 20, (80, 70, 30)).astype(np.float32)
        if number:
            array[60:] = 0
            array[:60] += 300
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"s{number}.nii.gz")
    (folder / "refused.nii.gz").touch()
    return folder


RULES = Preprocessing(spacing="native", crop=False)


def forget() -> None:
    """What a new process does not know yet."""
    open_array.cache_clear()
    chunks_module._WHOLE.clear()


def content(path: Path) -> list[tuple[str, np.ndarray]]:
    forget()
    store = Store.open(path)
    return [
        (json.dumps([scan.record.model_dump(mode="json"), store.refused]), scan.array())
        for scan in store
    ]


def same(one: list[tuple[str, np.ndarray]], two: list[tuple[str, np.ndarray]]) -> bool:
    return len(one) == len(two) and all(
        a == b and np.array_equal(x, y) for (a, x), (b, y) in zip(one, two, strict=True)
    )


def test_no_flipped_bit_goes_unnoticed(
    scans: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Wherever a bit flips, reading raises or gives the same, and the check names a file.

    The index of the records is made of them: it is made again instead.
    """
    store = prepare(scans, tmp_path / "store", RULES, workers=0)
    true = content(store.path)
    assert check_store(store.path) == []
    files = sorted(file for file in store.path.rglob("*") if file.is_file())
    rng = np.random.default_rng(FLIPS)
    silent, unnamed, raised = [], [], 0
    for number in range(FLIPS):
        # Every file is hit, large ones as often as small ones.
        file = files[number % len(files)]
        good = file.read_bytes()
        where = int(rng.integers(len(good) * 8))
        bad = bytearray(good)
        bad[where // 8] ^= 1 << where % 8
        file.write_bytes(bad)
        try:
            if not same(content(store.path), true):
                silent.append((file.name, where))
        except StoreError:
            raised += 1
        forget()
        named = check_store(store.path)
        if file.name == INDEX:
            assert (named, file.read_bytes()) == ([], good)
        elif not named:
            unnamed.append((file.name, where))
        file.write_bytes(good)
    counts = {"flips": FLIPS, "raised": raised, "silent": len(silent), "unnamed": len(unnamed)}
    for name, count in counts.items():
        record_property(name, count)
    assert silent == []
    assert unnamed == []
    assert raised > FLIPS / 3
    assert same(content(store.path), true)


def test_prepare_repairs_what_is_named_and_nothing_else(scans: Path, tmp_path: Path) -> None:
    store = prepare(scans, tmp_path / "store", RULES, workers=0)
    voxels = array_file(store.path, store[0].key)
    bad = bytearray(voxels.read_bytes())
    bad[len(bad) // 2] ^= 4
    voxels.write_bytes(bad)
    sums_file(array_file(store.path, store[1].key)).unlink()
    assert len(check_store(store.path)) == 2
    again = prepare(scans, store.path, RULES, workers=0, verify=True)
    assert check_store(store.path) == []
    assert again.fingerprint == store.fingerprint


def test_a_file_cut_short_while_it_is_mapped_is_named(scans: Path, tmp_path: Path) -> None:
    """A mapped file that is shorter than before would end the process without a word."""
    scan = prepare(scans, tmp_path / "store", RULES, workers=0)[0]
    scan.read((0, 0, 0), (8, 8, 8))
    os.truncate(array_file(scan.store, scan.key), 4096)
    with pytest.raises(StoreError, match="4096 bytes long instead of"):
        scan.read((70, 60, 20), (8, 8, 8))


def test_stores_from_before_there_were_checksums_are_read(scans: Path, tmp_path: Path) -> None:
    store = prepare(scans, tmp_path / "store", RULES, workers=0)
    true = [scan.array() for scan in store]
    for scan in store:
        sums_file(array_file(store.path, scan.key)).unlink()
    old = [{k: v for k, v in r.items() if k not in ("sums", "seal")} for r in store.records]
    lines = "".join(json.dumps(record) + "\n" for record in old)
    (store.path / "records.jsonl").write_text(lines)
    head = json.loads((store.path / "store.json").read_text())
    new = ("seal", "records_checksum", "refused_checksum")
    head = {k: v for k, v in head.items() if k not in new}
    (store.path / "store.json").write_text(json.dumps(head))
    forget()
    again = Store.open(store.path)
    assert again.fingerprint == store.fingerprint
    assert all(np.array_equal(a, b.array()) for a, b in zip(true, again, strict=True))
