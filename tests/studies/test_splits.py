"""Splits never part a patient, keep strata, repeat themselves, and refuse to leak."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from situs.catalog import near_duplicates as finder
from situs.catalog.near_duplicates import likeness, pairs_alike, thumbnail
from situs.datasets.dataset import DatasetOptions, open_dataset
from situs.errors import SitusError
from situs.scans.privacy import digest_patient
from situs.studies import describe
from situs.studies.cases import CaseFacts, contents, fingerprint, inspect, near_duplicates
from situs.studies.splits import LeakError, split_cases, training_cases, without_leaks
from situs.studies.unlabelled import read_unlabelled, unknown_to_test

PATIENT = r"(p\d+)_"
RULE = DatasetOptions(patient=PATIENT)


def facts(groups: list[int], strata: int = 3) -> list[CaseFacts]:
    rng = np.random.default_rng(0)
    return [
        CaseFacts(
            f"case{i:03d}",
            f"p{g}",
            str(g % strata),
            f"hash{i}",
            thumbnail(rng.random((1, 16, 16, 16)), np.eye(4)),
        )
        for i, g in enumerate(groups)
    ]


@settings(deadline=None, max_examples=40)
@given(
    groups=st.lists(st.integers(0, 30), max_size=30).map(lambda more: [*range(25), *more]),
    test=st.integers(1, 8),
    validation=st.integers(0, 5),
    seed=st.integers(0, 50),
)
def test_every_case_is_in_one_part_and_every_patient_too(groups, test, validation, seed):
    cases = facts(groups)
    group_of = {c.name: c.group for c in cases}
    split = split_cases(cases, test, validation, seed)
    parts = [split.test, split.validation, split.train]
    assert sorted(n for part in parts for n in part) == sorted(group_of)
    patients = [{group_of[n] for n in part} for part in parts]
    assert sum(map(len, patients)) == len(set().union(*patients))
    assert len(split.test) >= test
    assert len(split.validation) >= validation
    assert split == split_cases(list(reversed(cases)), test, validation, seed)
    labels = min(4, len(split.train))
    few = training_cases(cases, split.train, labels, seed, False)
    more = training_cases(cases, split.train, len(split.train), seed, False)
    assert more[:labels] == few
    assert sorted(more) == sorted(split.train)


def test_parts_have_the_strata_of_the_whole():
    cases = facts(list(range(120)))
    for seed in range(5):
        split = split_cases(cases, 30, 12, seed)
        strata = {c.name: c.stratum for c in cases}
        counts = np.bincount([int(strata[n]) for n in split.test])
        assert counts.max() - counts.min() <= 1
        drawn = training_cases(cases, split.train, 9, seed, True)
        assert sorted(np.bincount([int(strata[n]) for n in drawn])) == [3, 3, 3]
    assert len({split_cases(cases, 30, 12, seed).test for seed in range(5)}) == 5


def test_too_few_cases_say_so():
    with pytest.raises(SitusError, match="ask for fewer"):
        split_cases(facts(list(range(5))), 5, 0, 0)
    with pytest.raises(SitusError, match="only 3 are left"):
        training_cases(facts(list(range(5))), ["case000", "case001", "case002"], 4, 0, False)


def test_labels_may_count_patients_with_all_their_cases():
    cases = [
        CaseFacts(**{**vars(c), "group": f"patient{i // 2}"})
        for i, c in enumerate(facts(list(range(12))))
    ]
    names = [c.name for c in cases]
    two = training_cases(cases, names, 2, 0, False, by_patient=True)
    assert len(two) == 4
    assert len({c.group for c in cases if c.name in two}) == 2
    assert training_cases(cases, names, 3, 0, False, by_patient=True)[:4] == two
    with pytest.raises(SitusError, match=r"7 labelled patients.*only 6"):
        training_cases(cases, names, 7, 0, False, by_patient=True)


def test_given_test_split_is_kept_and_must_not_divide_a_patient():
    cases = facts(list(range(10)))
    given_test = [
        CaseFacts(**{**vars(c), "given": "test" if i < 3 else "train"}) for i, c in enumerate(cases)
    ]
    assert sorted(split_cases(given_test, "given", 2, 0).test) == ["case000", "case001", "case002"]
    torn = [CaseFacts(**{**vars(c), "group": "one"}) for c in given_test[2:4]]
    with pytest.raises(LeakError, match="divides 1 patients"):
        split_cases([*given_test[:2], *torn, *given_test[4:]], "given", 2, 0)


def test_copies_are_found_whatever_was_done_to_their_intensities():
    rng = np.random.default_rng(0)
    scans = [rng.random((1, 30, 40, 20)) for _ in range(4)]
    altered = 1000 * np.exp(scans[1] + 0.01 * rng.random(scans[1].shape))
    cases = [
        CaseFacts(f"c{i}", f"p{i}", "0", f"h{i}", thumbnail(a, np.eye(4)))
        for i, a in enumerate([*scans, altered])
    ]
    assert [(a.name, b.name) for a, b, _ in near_duplicates(cases, 0.98)] == [("c1", "c4")]
    with pytest.raises(LeakError, match="c1 and c4"):
        without_leaks(cases, 0.98)
    merged = {c.name: c.group for c in without_leaks(cases, 0.98, "group")}
    assert merged["c1"] == merged["c4"]
    assert len(set(merged.values())) == 4
    # One patient may have two scans that look the same.
    same = [*cases[:4], CaseFacts("c4", "p1", "0", "h4", cases[4].thumbnail)]
    assert without_leaks(same, 0.98) == same


def test_a_copy_in_another_orientation_is_found():
    rng = np.random.default_rng(0)
    scan, affine = rng.random((1, 20, 30, 24)), np.diag([1.0, 1.0, 2.0, 1.0])
    turned = scan.transpose(0, 3, 1, 2)[:, :, ::-1]
    there = np.zeros((4, 4))
    there[:3, :3] = affine[:3, :3][:, [2, 0, 1]] * [1, -1, 1]
    there[3, 3] = 1
    copy, other = thumbnail(turned, there), thumbnail(rng.random((1, 20, 30, 24)), affine)
    alike = likeness(thumbnail(scan, affine)[None], np.stack([copy, other]))
    assert alike[0, 0] > 0.99
    assert abs(alike[0, 1]) < 0.2


def test_two_brains_in_one_mask_are_no_copies_but_a_window_makes_no_other_brain():
    rng = np.random.default_rng(0)
    shape = (1, 40, 40, 40)
    place = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape[1:]], indexing="ij"))
    mask = (np.linalg.norm(place, axis=0) < 0.75)[None]
    brains = [np.where(mask, 100 + ndimage.gaussian_filter(rng.normal(size=shape), 2) * 200, 0)
              for _ in range(2)]  # fmt: skip
    noisy = brains[0] + np.where(mask, 0, rng.normal(size=shape))
    windowed = np.clip(brains[0], 40, 180)
    thumbs = np.stack([thumbnail(a, np.eye(4)) for a in (*brains, noisy, windowed)])
    assert {(i, j) for i, j, _ in pairs_alike(thumbs, 0.98)} == {(0, 2), (0, 3), (2, 3)}


@pytest.mark.parametrize("correlation", [0.9, 0.98])
def test_asking_coarse_pictures_first_finds_what_comparing_every_pair_finds(
    monkeypatch, correlation
):
    """Among smooth scans of one anatomy with and without background, over edges of blocks."""
    monkeypatch.setattr(finder, "_BLOCK", 7)
    monkeypatch.setattr(finder, "_PIECE", 2)
    rng = np.random.default_rng(0)
    shape = (1, 20, 20, 20)
    inside = (np.linalg.norm(np.indices(shape[1:]) - 9.5, axis=0) < 8)[None]
    shared = ndimage.gaussian_filter(rng.normal(size=shape), 2) * 20
    scans = []
    for i in range(12):
        scan = shared + ndimage.gaussian_filter(rng.normal(size=shape), 2) * 8
        scans.append(np.where(inside, scan + 20, 0) if i % 2 else scan)
        for strength in (0.02, 0.2):
            scans.append(scans[-1] + rng.normal(0, strength, shape))
    thumbs = [thumbnail(a, np.eye(4)) for a in scans]
    alike = likeness(np.stack(thumbs), np.stack(thumbs))
    expected = {(i, j) for i, j in np.argwhere(alike >= correlation).tolist() if i < j}
    found = pairs_alike(thumbs, correlation)
    assert {(i, j) for i, j, _ in found} == expected
    assert found == sorted(found)
    assert len(expected) >= 36  # each with its copies
    assert all(r == pytest.approx(alike[i, j], abs=1e-4) for i, j, r in found)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), ties=st.booleans())
def test_likeness_is_the_correlation_of_the_places_that_count(seed, ties):
    rng = np.random.default_rng(seed)
    two = rng.random((2, 4096)).astype(np.float32)
    if ties:
        two[0, rng.random(4096) < 0.5] = 0
        two[1, rng.random(4096) < 0.3] = 0
    seen = (two > 0).all(0)
    expected = np.corrcoef(two[:, seen])[0, 1]
    assert likeness(two[:1], two[1:])[0, 0] == pytest.approx(expected, abs=1e-4)


def test_equal_content_is_found_without_likeness():
    cases = facts([0, 1, 2])
    copy = CaseFacts("copy", "p9", "0", cases[0].content, 1 - cases[0].thumbnail)
    assert [(a.name, b.name) for a, b, _ in near_duplicates([*cases, copy], 0.98)] == [
        ("case000", "copy")
    ]


def test_inspection_knows_patients_and_rereads_only_what_changed(organs, tmp_path):
    dataset = open_dataset(organs, patient=r"(p\d+)_")
    first = inspect(dataset, tmp_path / "cases.json")
    assert len({f.group for f in first}) == 15
    assert {f.stratum for f in first} == {"0", "1", "2"}
    assert not near_duplicates(first, 0.98)
    text = (tmp_path / "cases.json").read_text()
    (tmp_path / "cases.json").write_text(text.replace(first[0].content, "remembered"))
    again = inspect(dataset, tmp_path / "cases.json")
    assert again[0].content == "remembered"
    assert [f.content for f in again[1:]] == [f.content for f in first[1:]]


def test_real_scans_of_different_patients_are_not_taken_for_copies(shared_data, tmp_path):
    dataset = open_dataset(shared_data / "hippocampus")
    some = type(dataset)(**{**vars(dataset), "cases": dataset.cases[:40]})
    assert not near_duplicates(inspect(some, tmp_path / "cases.json"), 0.98)


def test_unlabelled_scans_of_tested_patients_are_found_by_name_and_by_look(organs, tmp_path):
    further = tmp_path / "further"
    further.mkdir()
    images = sorted((organs / "images").iterdir())
    rng = np.random.default_rng(0)
    copied = nib.load(images[0])
    other = np.exp(copied.get_fdata() / 50) + 0.01 * rng.random(copied.shape)
    nib.save(nib.Nifti1Image(other.astype(np.float32), copied.affine), further / "odd.nii.gz")
    shutil.copy(images[2], further / "p99_x.nii.gz")
    new = rng.random((12, 14, 10)).astype(np.float32)
    for name in ("p00_later", "q00_new"):
        nib.save(nib.Nifti1Image(new, np.eye(4)), further / f"{name}.nii.gz")
        new = new[::-1]
    tested = inspect(open_dataset(organs, patient=PATIENT), tmp_path / "c.json")[:2]
    scans = read_unlabelled([further], RULE, tmp_path / "u.json")
    assert len(scans) == 4
    with pytest.raises(LeakError, match=r"2 of the unlabelled .* odd.nii.gz, p00_later.nii.gz"):
        unknown_to_test(scans, tested, 0.98)
    kept = unknown_to_test(scans, tested, 0.98, "group")
    assert sorted(Path(f.name).name for f in kept) == ["p99_x.nii.gz", "q00_new.nii.gz"]
    (further / "q00_new.nii.gz").unlink()
    assert len(read_unlabelled([further], RULE, tmp_path / "u.json")) == 4, "fixed by first use"
    assert len(read_unlabelled([further, images[5]], RULE, tmp_path / "u.json")) == 4


def test_an_edited_label_is_other_data_but_not_another_image(organs, tmp_path):
    copy = tmp_path / "organs"
    shutil.copytree(organs, copy)
    before = inspect(open_dataset(copy), tmp_path / "cases.json")
    file = next((copy / "labels").iterdir())
    label = nib.load(file)
    moved = np.roll(np.asarray(label.dataobj), 2, axis=0)
    nib.save(nib.Nifti1Image(moved, label.affine), file)
    after = inspect(open_dataset(copy), tmp_path / "cases.json")
    assert fingerprint(before) != fingerprint(after)
    assert contents(before) == contents(after)
    renamed = open_dataset(copy, classes={0: "background", 1: "liver"})
    assert fingerprint(inspect(renamed, tmp_path / "cases.json")) != fingerprint(after)


def test_patients_are_recognised_by_the_usual_rule_and_by_their_hash(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("sub-01_ses-2_T1w", "sub-02_T1w", "visit_007"):
        new = rng.random((12, 14, 10)).astype(np.float32)
        nib.save(nib.Nifti1Image(new, np.eye(4)), tmp_path / f"{name}.nii.gz")
    tested = [
        CaseFacts(group, group, "0", group, np.zeros(4096, np.float32), patient=group)
        for group in ("sub-01", "01", digest_patient("007"))
    ]
    for rule, expected in (
        (None, {"sub-02_T1w", "visit_007"}),
        (r"(?:sub-|visit_)(\d+)", {"sub-02_T1w"}),
    ):
        scans = read_unlabelled([tmp_path], DatasetOptions(patient=rule), tmp_path / "u.json")
        kept = unknown_to_test(scans, tested, 0.98, "group")
        assert {Path(f.name).name.removesuffix(".nii.gz") for f in kept} == expected


def test_images_without_labels_are_compared_with_the_tested_ones_too(organs, tmp_path):
    data = tmp_path / "organs"
    shutil.copytree(organs, data)
    study = {
        "data": str(data),
        "out": str(tmp_path / "out"),
        "dataset": {"patient": r"([pq]\d+)_", "allow_unlabelled": True},
        "arms": ["none", "mae"],
        "labels": [2],
        "test": 8,
        "validation": 0,
    }
    graph, _ = describe(study)
    tested, trained = graph.cases.split.test[0], graph.cases.split.train[0]
    noise = np.random.default_rng(0).random((12, 14, 10)).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, np.eye(4)), data / "images" / "q01_new.nii.gz")
    patient = tested.split("_")[0]
    nib.save(nib.Nifti1Image(noise**2, np.eye(4)), data / "images" / f"{patient}_c.nii.gz")
    shutil.copy(data / "images" / f"{trained}.nii.gz", data / "images" / "q02_same.nii.gz")
    more, _ = describe(study)
    added = {p.name for p in more.cases.unlabelled} - {p.name for p in graph.cases.unlabelled}
    assert added == {"q01_new.nii.gz", "q02_same.nii.gz"}, "of a tested patient: never"
    assert more.store.key != graph.store.key
    shutil.copy(data / "images" / f"{tested}.nii.gz", data / "images" / "q03_seen.nii.gz")
    with pytest.raises(LeakError, match=r"1 of the unlabelled scans .*q03_seen"):
        describe(study)
    grouped, _ = describe(study | {"near_duplicates": "group"})
    assert grouped.cases.unlabelled == more.cases.unlabelled
