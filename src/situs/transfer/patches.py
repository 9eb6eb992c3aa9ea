"""Training patches: where they are cut, near labels or anywhere, and how they are changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from situs.store.crop import crop_padded
from situs.transfer.augment import draw, move, recolour
from situs.transfer.cases import PreparedCase
from situs.transfer.config import Augmentation

Batch = dict[str, Tensor]
REACH = 0.25
"""How far a patch cut anywhere may reach into the air around a scan, as a share of the patch."""
_ORDER, _DRAW = range(2)  # what a random stream is for


@dataclass(frozen=True)
class Framing:
    """How a network sees a volume: whole, or slice by slice.

    Attributes:
        patch_size: Voxels along each axis of the network.
        slice_axis: The array axis that slices are perpendicular to; None for 3D networks.
    """

    patch_size: tuple[int, ...]
    slice_axis: int | None = None

    @property
    def axes(self) -> tuple[int, ...]:
        """Volume axis of each of the network's axes."""
        return tuple(axis for axis in range(3) if axis != self.slice_axis)

    def in_volume(self, size: Sequence[int]) -> tuple[int, ...]:
        """A size along the network's axes as a size in the volume, one voxel thick for slices."""
        size = list(size)
        if self.slice_axis is not None:
            size.insert(self.slice_axis, 1)
        return tuple(size)

    def to_batch(self, volume: Tensor) -> Tensor:
        """``(C, X, Y, Z)`` → ``(1, C, X, Y, Z)``, or the slices as a batch ``(N, C, ·, ·)``."""
        if self.slice_axis is None:
            return volume[None]
        return volume.movedim(self.slice_axis + 1, 0)

    def from_batch(self, batch: Tensor) -> Tensor:
        """Inverse of :meth:`to_batch` for any number of channels."""
        if self.slice_axis is None:
            return batch[0]
        return batch.movedim(0, self.slice_axis + 1)


class PatchSampler(IterableDataset[Batch]):
    """An endless stream of augmented batches, each a pure function of the seed and its number.

    Args:
        cases: Prepared, in memory.
        framing: Patch size and slice axis.
        batch_size: Patches a batch, of all processes together.
        augmentation: Random changes.
        foreground_share: Of patches centred near a labelled voxel; of a segmentation the others
            are cut anywhere, and reach out by ``REACH`` where a scan ends in air.
        seed: Of everything random.
        own: Which patches of every batch this process takes; what is drawn depends on the batch
            alone.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        framing: Framing,
        batch_size: int,
        augmentation: Augmentation,
        foreground_share: float,
        seed: int,
        own: slice = slice(None),
    ) -> None:
        self.own = own
        self.cases = cases
        self.framing = framing
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.foreground_share = foreground_share
        self.seed = seed
        self.first = 0  # batch to begin with, for a training that goes on

    def __iter__(self) -> Iterator[Batch]:
        # Workers take turns in the same order as the loader asks them, so that any number of
        # them gives the same stream.
        worker = get_worker_info()
        number, step = (worker.id, worker.num_workers) if worker else (0, 1)
        number += self.first
        while True:
            yield self.batch(number)
            number += step

    def names(self, number: int) -> list[str]:
        """The cases of batch ``number``."""
        first = number * self.batch_size
        return [self.cases[self._case(first + i)].name for i in range(self.batch_size)]

    def batch(self, number: int) -> Batch:
        """Batch ``number``: ``image (B, C, *patch)`` and ``label`` or ``target``."""
        rng = np.random.default_rng([self.seed, _DRAW, number])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        cases = [
            self.cases[self._case(number * self.batch_size + i)] for i in range(self.batch_size)
        ]
        return self._cut(cases, rng, generator)

    def _case(self, sample: int) -> int:
        """Every case comes as often as any other, in a new order each time round."""
        epoch, place = divmod(sample, len(self.cases))
        return int(
            np.random.default_rng([self.seed, _ORDER, epoch]).permutation(len(self.cases))[place]
        )

    def _cut(
        self, cases: Sequence[PreparedCase], rng: np.random.Generator, generator: torch.Generator
    ) -> Batch:
        framing = self.framing
        spacing = torch.tensor([[c.spacing[a] for a in framing.axes] for c in cases])
        drawn = draw(self.augmentation, spacing.float(), framing.axes, generator)
        size = framing.in_volume(drawn.crop_size(framing.patch_size))
        starts = [self._start(case, size, rng) for case in cases][self.own]
        cases = cases[self.own]
        images = self._stacked(
            crop_padded(c.image, s, size, c.background) for c, s in zip(cases, starts, strict=True)
        )
        labels = None
        if cases[0].label is not None:
            labels = self._stacked(
                crop_padded(_label(c)[None], s, size) for c, s in zip(cases, starts, strict=True)
            )[:, 0]
        drawn = drawn.rows(self.own)
        image, label = move(images, labels, drawn, framing.patch_size)
        batch = {"image": recolour(image, drawn)}
        if label is not None:
            batch["label"] = label
        if cases[0].target is not None:
            batch["target"] = torch.from_numpy(np.stack([_target(c) for c in cases]))
        return batch

    def _stacked(self, crops: Iterable[npt.NDArray[np.float32]]) -> Tensor:
        stacked = torch.from_numpy(np.stack(list(crops)))
        axis = self.framing.slice_axis
        return stacked if axis is None else stacked.squeeze(axis + 2)

    def _start(
        self, case: PreparedCase, size: Sequence[int], rng: np.random.Generator
    ) -> list[int]:
        shape = np.array(case.shape)
        patch = np.array(self.framing.in_volume(self.framing.patch_size))
        centre = rng.uniform(0, shape)
        near = bool(case.places) and rng.random() < self.foreground_share
        if near:
            places = case.places[int(rng.integers(len(case.places)))]
            voxel = np.array(np.unravel_index(int(rng.choice(places)), case.shape))
            # Off centre, so that the network does not learn that labels are in the middle; a
            # slice goes through the voxel itself.
            centre = voxel + 0.5 + rng.uniform(-0.25, 0.25, 3) * np.where(patch > 1, patch, 0)
        # A patch stays inside the scan where the scan is large enough, else lies about its middle.
        # But those of a segmentation that are cut anywhere reach out into the air: norms over a
        # patch make its noise as large as tissue, and a window of another scan may hold less tissue
        # than any inside the few labelled ones.
        reach = np.where((shape > patch) & (not near) & bool(case.places), patch * REACH, 0)
        before, after = (reach[:, None] * case.ends_in_air).T
        half = np.minimum(patch, shape) / 2
        centre = np.clip(centre, half - before, shape - half + after)
        start = np.floor(centre - np.array(size) / 2 + 0.5)
        return start.astype(int).tolist()


def _label(case: PreparedCase) -> npt.NDArray[np.int16]:
    if case.label is None:
        raise ValueError(f"{case.name} has no label volume")
    return case.label


def _target(case: PreparedCase) -> npt.NDArray[np.int64]:
    if case.target is None:
        raise ValueError(f"{case.name} has no target")
    return case.target
