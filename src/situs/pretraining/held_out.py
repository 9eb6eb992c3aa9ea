"""What a run's observations look at: held-out samples, as long as their scans can be read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch

from situs.backbones.base import Backbone
from situs.errors import StoreError
from situs.methods.composition import Composition, CompositionBatch, CompositionControls
from situs.methods.distributed import mean_count
from situs.pretraining.config import PretrainConfig
from situs.pretraining.controls import controls_of
from situs.pretraining.data import Item, few_enough, observed_batch

Seen = TypeVar("Seen")


class HeldOut:
    """The held-out items of a run; the same samples of them at every observation.

    An item whose files are damaged while the run goes on is left out, as those of the training
    are: the next item takes its place in the samples, and the other samples stay as they were.

    Args:
        config: Of the run.
        composition: Draws the samples.
        items: Held out.
        names: Key of a scan → the file a person would look for.

    Attributes:
        gone: Numbers of the items that cannot be read any more.
    """

    def __init__(
        self,
        config: PretrainConfig,
        composition: Composition,
        items: Sequence[Item],
        names: Mapping[str, str],
    ) -> None:
        self._config, self._composition = config, composition
        self._items, self._names = items, names
        self.gone: set[int] = set()
        self._samples: tuple[CompositionBatch, list[Item]] | None = None
        self._controls: CompositionControls | None = None

    def samples(self) -> tuple[CompositionBatch, list[Item]]:
        """The observed batch on the CPU, and the item of each sample."""
        if self._samples is None:
            count, seed = self._config.observe_samples, self._config.seed
            self._samples = observed_batch(self._items, self._composition, count, seed, self.gone)
        return self._samples

    def controls(self, backbone: Backbone) -> CompositionControls:
        """What the trained network is held against, on the CPU."""
        if self._controls is None:
            self._controls = controls_of(
                self._config, self._composition, backbone, self._items, self.gone
            )
        return self._controls

    def look(self, at: Callable[[], Seen]) -> Seen | None:
        """Call ``at``; where a scan cannot be read, leave it out and call again.

        Returns:
            What it gave; None where no item is left.

        Raises:
            StoreError: Where more items are gone than a run bears, or none of them is to blame.
        """
        while len(self.gone) < len(self._items):
            try:
                return at()
            except StoreError as error:
                self._leave_out(error)
        return None

    def _leave_out(self, error: StoreError) -> None:
        lost = {n: told for n, item in enumerate(self._items) if (told := self._unread(n, item))}
        if not lost or not few_enough(len(self.gone) + len(lost), len(self._items)):
            raise error
        self.gone |= set(lost)
        self._samples = self._controls = None
        left = len(self.gone) < len(self._items)
        rest = "Observations go on without it" if left else "Nothing is observed any more"
        for told in lost.values():
            warnings.warn(f"{told}. {rest}", stacklevel=2)

    def _unread(self, number: int, item: Item) -> str:
        """What is wrong with an item that was whole so far; empty where it can be read."""
        for scan in () if number in self.gone else item:
            try:
                scan.read((0, 0, 0), scan.shape)
            except StoreError as error:
                name = self._names.get(scan.key, scan.key)
                return f"the held-out scan {name} cannot be read: {error}"
        return ""


def everywhere(here: bool, device: torch.device) -> bool:
    """Whether something holds in every process of a training."""
    return bool(mean_count(torch.tensor(float(here), device=device)) == 1)
