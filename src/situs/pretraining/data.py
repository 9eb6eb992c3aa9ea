"""Which sample is seen when: a pure function of the seed and the sample's number.

A run can therefore be continued at any step, in any number of workers, with the same samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, default_collate

from situs.errors import StoreError
from situs.methods.composition import Composition, CompositionBatch
from situs.training.loading import LIMIT_S, UnderWay, WatchedLoader
from situs.views.source import Source

Item = Sequence[Source]
# Share of the items that may become unreadable before a training ends; one always may.
_FEW = 0.05
_ORDER, _DRAW, _HELD_OUT, _OBSERVE = range(4)  # what a random stream is for


class ViewDataset(Dataset[dict[str, Any]]):
    """Sample number i is drawn from item (permutation of epoch i // n)[i % n].

    Where the files of a few items have been damaged since the training began, the next item takes
    the place of each. Items in memory that all loader processes share say which.
    """

    def __init__(self, items: Sequence[Item], composition: Composition, seed: int) -> None:
        self.items = items
        self.composition = composition
        self.seed = seed
        self.under_way = UnderWay(0)
        self._gone = torch.zeros(len(items), dtype=torch.bool).share_memory_()
        self._epoch: tuple[int, np.ndarray[Any, Any]] | None = None

    def __getitem__(self, number: int) -> dict[str, Any]:
        """The views of sample ``number``, and the item they were drawn from."""
        index = self.item_index(number)
        rng = np.random.default_rng([self.seed, _DRAW, number])
        for turn in range(len(self.items)):
            item = (index + turn) % len(self.items)
            self.under_way.begin(item)
            try:
                views = self.composition.sample(self.items[item], rng)
            except StoreError as error:
                self._leave_out(item, error)
                rng = np.random.default_rng([self.seed, _DRAW, number])
                continue
            self.under_way.done()
            return {"item": item, "views": views}
        raise StoreError("no scan of the store can be read")  # not reached: few may be left out

    @property
    def left_out(self) -> int:
        """Items that could not be read, in any loader process."""
        return int(self._gone.sum())

    def _leave_out(self, item: int, error: StoreError) -> None:
        """Go on without an item; the next one takes its place.

        Raises:
            StoreError: The error, where too many are gone.
        """
        known = bool(self._gone[item])
        self._gone[item] = True
        if not few_enough(self.left_out, len(self.items)):
            raise error
        if not known:
            warnings.warn(f"{error}. Training goes on without this scan", stacklevel=2)

    def item_index(self, number: int) -> int:
        """Every item once an epoch, in an order drawn anew."""
        epoch, position = divmod(number, len(self.items))
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng([self.seed, _ORDER, epoch])
            self._epoch = (epoch, rng.permutation(len(self.items)))
        return int(self._epoch[1][position])


def few_enough(gone: int, items: int) -> bool:
    """Whether a training goes on where files of so many of its items became unreadable."""
    return gone <= max(1, _FEW * items)


class EndlessSampler(Sampler[int]):
    """Sample numbers of one rank, from any step on, without end."""

    def __init__(self, first_step: int, batch_size: int, rank: int = 0, ranks: int = 1) -> None:
        self.first_step, self.batch_size = first_step, batch_size
        self.rank, self.ranks = rank, ranks

    def __iter__(self) -> Iterator[int]:
        """Numbers of this rank's samples, batch after batch."""
        step = self.first_step
        while True:
            start = (step * self.ranks + self.rank) * self.batch_size
            yield from range(start, start + self.batch_size)
            step += 1


def loader(
    dataset: ViewDataset,
    sampler: EndlessSampler,
    workers: int,
    names: Mapping[str, str] | None = None,
    limit_s: float = LIMIT_S,
) -> WatchedLoader:
    """The loader of one rank.

    Args:
        dataset: Draws samples.
        sampler: Says which.
        workers: Loader processes.
        names: Key of a scan → the file a person would look for.
        limit_s: Seconds that a batch may be waited for.
    """
    dataset.under_way = UnderWay(workers)
    known = names or {}

    def named() -> list[str]:
        at = dataset.under_way.items()
        return [known.get(scan.key, scan.key) for item in at for scan in dataset.items[item]]

    return WatchedLoader(
        dataset,
        named,
        workers,
        limit_s=limit_s,
        batch_size=sampler.batch_size,
        sampler=sampler,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        pin_memory=_has_gpu(),
    )


def split_items(
    items: Sequence[Item], share: float, seed: int, group_of: Mapping[str, str] | None = None
) -> tuple[list[Item], list[Item]]:
    """Training and held-out items; one group never stands on both sides.

    With fewer than five groups nothing can be spared: all items are on both sides.

    Args:
        items: What samples are drawn from.
        share: Of the groups to hold out.
        seed: Of the draw.
        group_of: Group by the key of an item's first scan, see
            :func:`~situs.splits.groups.scan_groups`; its study, or itself, where absent.
    """
    groups: dict[str, list[Item]] = {}
    for item in items:
        group = (group_of or {}).get(item[0].key) or item[0].study or item[0].key
        groups.setdefault(group, []).append(item)
    names = sorted(groups)
    if share == 0 or len(names) < 5:
        return list(items), list(items)
    rng = np.random.default_rng([seed, _HELD_OUT])
    count = max(1, round(share * len(names)))
    held = {names[i] for i in rng.permutation(len(names))[:count]}
    train = [item for name in names if name not in held for item in groups[name]]
    return train, [item for name in names if name in held for item in groups[name]]


def observed_batch(
    items: Sequence[Item],
    composition: Composition,
    count: int,
    seed: int,
    gone: Collection[int] = (),
) -> tuple[CompositionBatch, list[Item]]:
    """The same ``count`` held-out samples at every observation of a run.

    Args:
        items: Held out.
        composition: Draws the samples.
        count: Of samples.
        seed: Of the run.
        gone: Numbers of items that cannot be read, not all; the next one stands in for each.
    """
    there = [
        next(n % len(items) for n in range(first, first + len(items)) if n % len(items) not in gone)
        for first in range(len(items))
    ]
    chosen = [items[there[i % len(items)]] for i in range(count)]
    samples = [
        composition.sample(item, np.random.default_rng([seed, _OBSERVE, i]))
        for i, item in enumerate(chosen)
    ]
    return default_collate(samples), chosen


def _has_gpu() -> bool:
    return torch.cuda.is_available()
