"""The list of records: one is read without the others, and its index is made anew where it lies."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from situs.errors import StoreError
from situs.store import Preprocessing, Record, Store, prepare
from situs.store.check import check_store
from situs.store.index import index_bytes
from situs.store.paths import HEAD, INDEX, RECORDS

RULES = Preprocessing(spacing="native", crop=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("made")
    (folder / "scans").mkdir()
    for number in range(4):
        noise = np.random.default_rng(number).normal(100, 20, (12, 10, 8)).astype(np.float32)
        nib.save(nib.Nifti1Image(noise, np.eye(4)), folder / "scans" / f"s{number}.nii.gz")
    return prepare(folder / "scans", folder / "store", RULES, workers=0)


@pytest.fixture
def store(made: Store, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.path, tmp_path / "store"))


def lines_of(store: Path) -> list[bytes]:
    return (store / RECORDS).read_bytes().splitlines(keepends=True)


def test_a_record_is_read_and_checked_without_the_others(made: Store, store: Path) -> None:
    lines = lines_of(store)
    others = b"".join(b"?" * (len(line) - 1) + b"\n" for line in lines[:3])
    (store / RECORDS).write_bytes(others + lines[3])
    opened = Store.open(store)
    assert [scan.key for scan in opened] == [scan.key for scan in made]
    assert opened[-1].record == made[3].record
    assert np.array_equal(opened[3].array(), made[3].array())
    with pytest.raises(StoreError, match=rf"{RECORDS} is damaged; 'situs prepare'"):
        _ = opened[1].record
    (fault,) = check_store(store)
    assert fault.file.endswith(RECORDS)


def _gone(index: Path) -> None:
    index.unlink()


def _cut(index: Path) -> None:
    index.write_bytes(index.read_bytes()[:-5])


def _emptied(index: Path) -> None:
    index.write_bytes(b"")


def _of_another_list(index: Path) -> None:
    text = b"".join(reversed(lines_of(index.parent)))
    keys = [Record.model_validate_json(line).key for line in text.splitlines()]
    index.write_bytes(index_bytes(text, keys))


def _of_other_keys(index: Path) -> None:
    text = (index.parent / RECORDS).read_bytes()
    index.write_bytes(index_bytes(text, [f"{n:016x}" for n in range(4)]))


@pytest.mark.parametrize("harm", [_gone, _cut, _emptied, _of_another_list, _of_other_keys])
@pytest.mark.parametrize("old", [False, True])
def test_the_index_is_made_anew(
    harm: Callable[[Path], None], old: bool, made: Store, store: Path
) -> None:
    """Also in stores made before lists had checksums."""
    index = store / INDEX
    good = index.read_bytes()
    if old:
        head = json.loads((store / HEAD).read_text())
        known = {k: v for k, v in head.items() if k not in ("seal", "records_checksum")}
        (store / HEAD).write_text(json.dumps(known))
    harm(index)
    opened = Store.open(store)
    assert opened.records == made.records
    assert [scan.key for scan in opened] == [scan.key for scan in made]
    assert index.read_bytes() == good
    assert check_store(store) == []


def test_a_store_that_may_only_be_read_needs_no_index(
    made: Store, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (store / INDEX).unlink()
    monkeypatch.setattr("situs.store.listing.write_file", refused)
    assert Store.open(store).records == made.records
    assert not (store / INDEX).exists()


def test_scans_that_are_removed_stay_readable_to_who_opened_before(
    made: Store, store: Path, tmp_path: Path
) -> None:
    before = Store.open(store)
    sent = pickle.dumps(before[3])
    scans = Path(shutil.copytree(made.path.parent / "scans", tmp_path / "scans"))
    (scans / made[1].record.source).unlink()
    after = prepare(scans, store, RULES, workers=0)
    assert [scan.key for scan in after] == [made[n].key for n in (0, 2, 3)]
    assert [scan.record.origin for scan in after] == [made[n].record.origin for n in (0, 2, 3)]
    assert before.records == made.records
    with pytest.raises(StoreError, match="was prepared anew while it was in use"):
        pickle.loads(sent)


def test_scans_travel_without_their_records(made: Store) -> None:
    scans = list(made)
    assert all(scan.shape == (12, 10, 8) for scan in scans)
    assert len(pickle.dumps(scans)) - len(pickle.dumps(scans[:2])) < 100
    again = pickle.loads(pickle.dumps(scans))
    assert again == scans
    assert {hash(scan) for scan in again} == {hash(scan) for scan in scans}
    assert again[2].record == made[2].record
