"""Scans without anatomy: what a pretext task yields on them was not learned from anatomy.

Both keep everything that a sampler goes by (shape, spacing, place in the world, name) and
everything outside the scan; only what is read inside it changes.

Ours; see docs/results/anatomy.md for what they have shown.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from situs.views.source import Source
from situs.views.subvolume import inside_mask

Array = npt.NDArray[np.float32]

_LARGEST_BLOCK = 16  # voxels: larger blocks would keep whole structures
_LEAST_BLOCKS = 6  # along an axis, of a small scan


class WithoutAnatomy:
    """A scan whose content is replaced; all else is the scan's.

    Attributes:
        original: The scan itself, for decisions that must fall as they do on it (where its
            anatomy lies, say).
    """

    def __init__(self, original: Source) -> None:
        self.original = original
        self.key, self.study = original.key, original.study
        self.modality, self.description = original.modality, original.description
        self.shape, self.channels = original.shape, original.channels
        self.spacing, self.affine = original.spacing, original.affine
        self.background = original.background

    def read(self, start: Sequence[int], size: Sequence[int]) -> Array:
        """The crop ``(C, *size)`` at voxel ``start``, without anatomy inside the scan."""
        raise NotImplementedError


class Emptied(WithoutAnatomy):
    """Every voxel inside the scan has one value, the mean of the brighter ones.

    That is neither what lies outside (the least value or 0) nor what a normalised scan has in
    the middle of its range, so that the border of the scan shows at least as clearly as it does
    around tissue.
    """

    def read(self, start: Sequence[int], size: Sequence[int]) -> Array:
        """The crop ``(C, *size)`` at voxel ``start``; one value inside the scan."""
        crop = self.original.read(start, size).copy()
        crop[:, inside_mask(self.shape, start, size)] = self._level[:, None]
        return crop

    @cached_property
    def _level(self) -> Array:
        """``(C,)`` mean of the voxels above the channel's mean."""
        whole = self.original.read((0, 0, 0), self.shape)
        brighter = [channel[channel > channel.mean()] for channel in whole]
        return np.array(
            [b.mean() if b.size else c.mean() for b, c in zip(brighter, whole, strict=True)],
            dtype=np.float32,
        )


class Shuffled(WithoutAnatomy):
    """Blocks of voxels have changed places: the same tissue, nothing where it belongs.

    Blocks measure up to 16 voxels along an axis, and fewer where a scan would otherwise have
    fewer than six. Which goes where depends on the scan's key alone.
    """

    def read(self, start: Sequence[int], size: Sequence[int]) -> Array:
        """The crop ``(C, *size)`` at voxel ``start``, put together from blocks of elsewhere."""
        crop = self.original.read(start, size).copy()
        low = np.maximum(start, 0)
        high = np.minimum(np.add(start, size), self.shape)
        if (high <= low).any():
            return crop
        first, last = low // self._block, (high - 1) // self._block
        for cell in itertools.product(*(range(f, n + 1) for f, n in zip(first, last, strict=True))):
            begin = np.maximum(low, cell * self._block)
            end = np.minimum(high, np.add(cell, 1) * self._block)
            came_from = self._origin[cell] + (begin - cell * self._block)
            part = self.original.read(came_from.tolist(), (end - begin).tolist())
            x, y, z = (slice(b - s, e - s) for b, e, s in zip(begin, end, start, strict=True))
            crop[:, x, y, z] = part
        return crop

    @cached_property
    def _block(self) -> npt.NDArray[np.int64]:
        return np.array([min(_LARGEST_BLOCK, max(1, n // _LEAST_BLOCKS)) for n in self.shape])

    @cached_property
    def _origin(self) -> npt.NDArray[np.int64]:
        """``(*cells, 3)`` first voxel of the block that each cell of the scan is filled with.

        What does not fill a block at the end of an axis is filled with a part of any block.
        """
        whole = np.asarray(self.shape) // self._block
        cells = -(-np.asarray(self.shape) // self._block)
        rng = np.random.default_rng(zlib.crc32(self.key.encode()))
        drawn = rng.integers(int(whole.prod()), size=tuple(cells))
        x, y, z = whole
        drawn[:x, :y, :z] = rng.permutation(int(whole.prod())).reshape(whole)
        return np.stack(np.unravel_index(drawn, whole), axis=-1) * self._block


CONTROLS: dict[str, type[WithoutAnatomy]] = {"emptied": Emptied, "shuffled": Shuffled}
"""Ways to take the anatomy out of a scan, by the name of the score's field."""


def original(source: Source) -> Source:
    """The scan itself, whatever its content was replaced with."""
    return source.original if isinstance(source, WithoutAnatomy) else source
