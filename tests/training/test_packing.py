"""A batch comes out of its packing as it went in."""

from __future__ import annotations

import pickle
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import default_collate
from torch.utils.data._utils.pin_memory import pin_memory

from situs.training.packing import Packed, collate_packed, unpacked


class Pair(NamedTuple):
    first: np.ndarray
    second: np.ndarray


def sample(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    views = {
        "image": rng.normal(size=(2, 16, 16)).astype("f4"),
        "large": rng.normal(size=(1, 80, 80, 80)).astype("f4"),
        "mask": rng.random((2, 16)) < 0.5,
        "none": np.zeros((0, 3), "f4"),
        "named": Pair(rng.normal(size=5).astype("f4"), rng.normal(size=2).astype("f4")),
        "pairs": [rng.integers(0, 9, 4), rng.normal(size=3)],
    }
    return {"item": seed, "weight": 0.5 * seed, "views": {"sal": views}}


def same(a: object, b: object) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        for left, right in zip(a, b, strict=True):
            same(left, right)
    else:
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.is_contiguous()
        assert a.data_ptr() % 64 == 0, "as a tensor of its own is"
        assert torch.equal(a, b)


def test_a_batch_is_what_dataloader_collates_and_travels_as_one_tensor():
    samples = [sample(seed) for seed in range(3)]
    packed = pickle.loads(pickle.dumps(collate_packed(samples)))
    assert isinstance(packed, Packed)
    assert packed.memory.dtype == torch.uint8
    batch = unpacked(packed)
    same(batch, default_collate(samples))
    # In place means in its own place, and autograd takes nothing else for written.
    large = batch["views"]["sal"]["large"]
    before = large._version
    batch["views"]["sal"]["image"].zero_()
    same(batch["views"]["sal"]["pairs"], default_collate(samples)["views"]["sal"]["pairs"])
    assert large._version == before


def test_dataloader_pins_what_travels_and_the_batch_stays_the_same(monkeypatch: pytest.MonkeyPatch):
    pinned: list[Tensor] = []

    def copied(tensor: Tensor) -> Tensor:  # stands for memory that only a GPU's driver gives
        pinned.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(Tensor, "pin_memory", copied)
    samples = [sample(seed) for seed in range(3)]
    same(unpacked(pin_memory(collate_packed(samples))), default_collate(samples))
    assert len(pinned) == 1


def test_samples_of_several_types_are_of_the_type_that_holds_them_all():
    for types in (("f4", "f8"), ("i8", "f4"), ("?", "u1")):
        samples = [{"image": np.full(3, 0.1).astype(kind)} for kind in types]
        same(unpacked(collate_packed(samples)), default_collate(samples))


def test_samples_that_differ_in_size_are_refused_as_dataloader_refuses_them():
    samples = [{"image": np.zeros((4, 3), "f4")}, {"image": np.zeros((4, 4), "f4")}]
    with pytest.raises(RuntimeError, match="equal size"):
        collate_packed(samples)
