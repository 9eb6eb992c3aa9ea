"""Training and held-out scans share no patient, study, file or near-duplicate."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from situs.pretraining.data import split_items
from situs.splits.groups import linked, scan_groups
from situs.views import ArraySource

LINKS = ("near_duplicate_of", "patient", "study", "series")


def record(key: str, **told: str) -> dict[str, Any]:
    return {name: "" for name in (*LINKS, "source")} | {"key": key, "source": key} | told


def sides(records: list[dict[str, Any]], share: float) -> tuple[set[str], set[str]]:
    array = np.zeros((1, 2, 2, 2), np.float32)
    items = [[ArraySource(array, key=r["key"])] for r in records]
    train, held = split_items(items, share, seed=0, group_of=scan_groups(records))
    return {i[0].key for i in train}, {i[0].key for i in held}


def test_a_near_duplicate_keeps_its_patient_and_its_twin() -> None:
    patients = [
        [
            record(f"{p}a", patient=f"p{p}", study=f"s{p}"),
            record(f"{p}b", patient=f"p{p}", study=f"s{p}", near_duplicate_of=f"{p}a"),
            record(f"{p}c", patient=f"p{p}"),
        ]
        for p in range(6)
    ]
    # Patient 7 is patient 0 under another name; 8a and 8b look like a scan that was not stored.
    patients.append(
        [record("7a", patient="p7", near_duplicate_of="0c"), record("7b", patient="p7")]
    )
    patients.append([record(f"8{i}", near_duplicate_of="gone") for i in "ab"])
    patients.append([record(f"9{i}", series="four.nii.gz") for i in "abc"])
    patients.append([record(f"x{i}", source="folder") for i in "ab"])
    groups = scan_groups([r for records in patients for r in records])
    members = defaultdict(set)
    for key, group in groups.items():
        members[group].add(key[0])
    assert sorted(map(sorted, members.values())) == [["0", "7"], *([c] for c in "1234589x")]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_is_linked_stands_on_one_side(data: st.DataObject) -> None:
    value = st.sampled_from(["", "", *"abcdef"])
    keys = [f"k{i}" for i in range(data.draw(st.integers(5, 24)))]
    records = [
        record(key, **{name: data.draw(value) for name in LINKS[1:]})
        | {"near_duplicate_of": data.draw(st.sampled_from(["", "", "", *keys[:i]]))}
        for i, key in enumerate(keys)
    ]
    train, held = sides(records, data.draw(st.floats(0.1, 0.6)))
    assert train | held == set(keys)
    if train == held:
        assert len(set(scan_groups(records).values())) < 5
        return
    assert not train & held
    for name in LINKS[1:]:
        told = [{r[name] for r in records if r["key"] in side} - {""} for side in (train, held)]
        assert not told[0] & told[1], name
    for r in records:
        if r["near_duplicate_of"]:
            assert (r["key"] in held) == (r["near_duplicate_of"] in held)


def test_groups_do_not_depend_on_the_order_of_records() -> None:
    records = [record(f"k{i}", patient=f"p{i % 3}") for i in range(9)]
    assert scan_groups(records) == scan_groups(records[::-1])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_what_is_linked_over_others_is_one_group_named_by_its_first(
    links: list[tuple[int, int]],
) -> None:
    groups = linked(range(10), links)
    reach = {i: {i} for i in range(10)}  # grown until nothing is added any more
    while any(reach[a] != reach[b] for a, b in links):
        for a, b in links:
            for member in (together := reach[a] | reach[b]):
                reach[member] = together
    assert groups == {i: min(reach[i]) for i in range(10)}
