from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from situs.datasets.dataset import Case, Dataset
from situs.errors import ConfigError
from situs.store import Preprocessing
from situs.transfer.cases import Cohort, places
from situs.transfer.splits import choose, described


def cohort_of(groups: list[int]) -> Cohort:
    cases = tuple(
        Case(f"case-{i:02d}", (Path("x"),), Path("y"), group=f"patient-{g}")
        for i, g in enumerate(groups)
    )
    dataset = Dataset(Path("d"), "folders", cases, {0: "background", 1: "one"}, "segmentation")
    return Cohort(dataset, Preprocessing(spacing="native"))


@settings(deadline=None, max_examples=40)
@given(
    groups=st.lists(st.integers(0, 12), min_size=8, max_size=20),
    train=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_splits_never_part_a_patient(groups, train, seed) -> None:
    cohort = cohort_of(groups)
    try:
        split = choose(cohort, train, 1, 2, seed)
    except ConfigError:
        assert len(set(groups)) < train + 3, "there were enough patients"
        return
    parts = [{cohort.group(n) for n in part} for part in (split.train, split.validation)]
    parts.append({cohort.group(n) for n in split.test})
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert [len(split.train), len(split.validation), len(split.test)] == [train, 1, 2]


def test_fewer_labels_are_a_subset_and_the_test_cases_stay() -> None:
    cohort = cohort_of(list(range(20)))
    few, more = (choose(cohort, n, 2, 5, seed=3) for n in (4, 10))
    assert set(few.train) < set(more.train)
    assert (few.test, few.validation) == (more.test, more.validation)
    assert choose(cohort, 4, 2, 5, seed=4).test != few.test
    rest = choose(cohort, 4, 2, None, seed=3)
    assert len(rest.test) == 14
    assert rest.train == few.train


def test_shares_are_of_the_patients_and_one_is_always_tested() -> None:
    cohort = cohort_of([i // 2 for i in range(20)])  # ten patients of two scans each
    split = choose(cohort, None, 0.1, 0.2, seed=0)
    assert [len(split.train), len(split.validation), len(split.test)] == [14, 2, 4]
    assert len({cohort.group(name) for name in split.test}) == 2
    line = described(split, cohort)
    assert line.startswith("14 cases to train on, of 7 patients; 2 cases for validation, of 1 pat")
    assert all(name in line for name in (*split.validation, *split.test))
    small = choose(cohort_of([0, 1, 2]), None, 0.1, 0.2, seed=0)
    assert [len(small.train), len(small.validation), len(small.test)] == [2, 0, 1]
    with pytest.raises(ConfigError, match=r"'train': no case is left of 1 .*Label more"):
        choose(cohort_of([0]), None, 0.1, 0.2, seed=0)


def test_declared_splits_are_kept_and_classes_take_turns() -> None:
    declared = ["train"] * 8 + ["test"] * 4
    classes = [0, 0, 0, 0, 0, 0, 1, 2, 0, 1, 2, 0]
    cases = tuple(
        Case(f"case-{i:02d}", (Path("x"),), target=classes[i], split=declared[i]) for i in range(12)
    )
    names = {0: "a", 1: "b", 2: "c"}
    dataset = Dataset(Path("d"), "csv", cases, names, "classification")
    cohort = Cohort(dataset, Preprocessing(spacing="native"))
    split = choose(cohort, 4, 0, None, seed=1)
    assert sorted(split.test) == ["case-08", "case-09", "case-10", "case-11"]
    assert {"case-06", "case-07"} < set(split.train), "one of each class comes first"
    assert choose(cohort, None, 2, 2, 1).validation[0] < "case-08", "no 'val' is declared"
    assert sorted(choose(cohort, None, 0.1, 0.2, 1).test) == sorted(split.test), "all declared"
    with pytest.raises(ConfigError, match="asks for 9 cases, but 8 are left"):
        choose(cohort, 9, 0, None, seed=1)
    with pytest.raises(ConfigError, match=r"but 2 are left of 12 labelled ones \('test' has 10\)"):
        choose(cohort_of([*range(12)]), 3, 0, 10, seed=1)


def test_lists_are_taken_as_they_are() -> None:
    cohort = cohort_of([0, 0, 1, 2, 3])
    split = choose(cohort, ["case-02"], [], None, 0)
    assert split.train == ("case-02",)
    assert sorted(split.test) == ["case-00", "case-01", "case-03", "case-04"]
    with pytest.raises(ConfigError, match="belongs to a patient who is in 'train'"):
        choose(cohort, ["case-00"], 0, ["case-01"], 0)
    with pytest.raises(ConfigError, match=r"no labelled case 'case-2'.*case-02"):
        choose(cohort, ["case-2"], 0, 1, 0)
    with pytest.raises(ConfigError, match="asks for 9 cases, but"):
        choose(cohort, 9, 0, 1, 0)


def test_preparation(collection: Path) -> None:
    cohort = Cohort.open(collection)
    # Spacings are 1, 1.2 and 2 mm in every scan, along axes that are reordered to R, A, S.
    assert cohort.preprocessing.spacing == pytest.approx((1.0, 1.2, 2.0))
    assert cohort.classes == {0: "background", 1: "1", 2: "2"}
    case = cohort["case-1"]
    assert case is cohort["case-1"], "prepared once"
    assert case.spacing == pytest.approx((1.0, 1.2, 2.0))
    assert case.label is not None
    assert set(np.unique(case.label)) == {0, 1, 2}
    bright, dark = (case.image[0][case.label == k].mean() for k in (1, 2))
    assert bright > 1 > -1 > dark
    assert [len(p) for p in case.places] == [int((case.label == k).sum()) for k in (1, 2)]


def test_memory_has_a_limit(collection: Path) -> None:
    cohort = Cohort.open(collection)
    first = cohort["case-0"]
    small = Cohort(cohort.dataset, cohort.preprocessing, keep_bytes=int(1.5 * first.nbytes))
    assert small["case-0"] is small["case-0"]
    again = small["case-1"]
    assert again is not small["case-1"]
    assert np.array_equal(again.image, small["case-1"].image)


def test_label_values_become_indices(collection: Path) -> None:
    cohort = Cohort.open(collection)
    sparse = replace(cohort.dataset, classes={0: "background", 2: "two", 1: "one", 7: "seven"})
    again = Cohort(sparse, cohort.preprocessing)
    assert list(again.classes) == [0, 1, 2, 7]
    label = again["case-0"].label
    assert label is not None
    assert label.max() == 2


def test_many_voxels_are_thinned_out() -> None:
    label = np.ones((40, 40, 40), np.int16)
    (found,) = places(label)
    assert len(found) == len(np.unique(found)) == 20_000
