"""Small scans kept decoded in this process, so that not every sample decompresses its scan anew.

A worker of a loader sees the same scans again each epoch. Slices of a scan need little of it, but
its compressed chunks are read whole; a collection of small scans fits memory once decoded.
"""

from __future__ import annotations

import math
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from situs.store.crop import crop_padded
from situs.views.source import ArraySource, Source

Array = npt.NDArray[np.float32]
T = TypeVar("T")

_LARGEST = 2**22  # voxels of a scan that is kept: 16 MiB
_KEPT_BYTES = 2**29


class Kept(Generic[T]):
    """What was made of the scans seen last, up to a number of bytes.

    Goes by the object, not by its key: two stores may name a scan alike. What was made of a scan
    that is gone goes too.

    Args:
        most: Bytes kept at most.
        size: Bytes of one.
    """

    def __init__(self, most: int, size: Callable[[T], int]) -> None:
        self._most, self._size, self._bytes = most, size, 0
        self._kept: OrderedDict[int, tuple[weakref.ref[Source], T]] = OrderedDict()

    def of(self, source: Source, make: Callable[[Source], T]) -> T:
        """What ``make`` makes of ``source``, now or earlier."""
        found = self._kept.get(id(source))
        if found is not None and found[0]() is source:
            self._kept.move_to_end(id(source))
            return found[1]
        made = make(source)
        self._drop(id(source))
        self._kept[id(source)] = weakref.ref(source, self._forget(id(source))), made
        self._bytes += self._size(made)
        while self._bytes > self._most:
            self._drop(next(iter(self._kept)))
        return made

    def _forget(self, key: int) -> Callable[[weakref.ref[Source]], None]:
        def gone(reference: weakref.ref[Source]) -> None:
            if key in self._kept and self._kept[key][0] is reference:
                self._drop(key)

        return gone

    def _drop(self, key: int) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._bytes -= self._size(found[1])


_volumes: Kept[Array] = Kept(_KEPT_BYTES, lambda array: array.nbytes)


def keepable(source: Source) -> bool:
    """Whether a scan is small enough to be kept, and is not in memory as it is."""
    return not isinstance(source, ArraySource) and (
        source.channels * math.prod(source.shape) <= _LARGEST
    )


def decoded(source: Source) -> Array:
    """All of a :func:`keepable` scan and one voxel around it, ``(C, X + 2, Y + 2, Z + 2)``.

    Not to be written to.
    """
    return _volumes.of(source, _whole)


def read_crop(source: Source, start: Sequence[int], size: Sequence[int]) -> Array:
    """What ``source.read(start, size)`` gives, out of the decoded scan where it is small."""
    if not keepable(source):
        return source.read(start, size)
    inside = decoded(source)[:, 1:-1, 1:-1, 1:-1]
    return crop_padded(inside, start, size, source.background)


def _whole(source: Source) -> Array:
    x, y, z = source.shape
    return source.read((-1, -1, -1), (x + 2, y + 2, z + 2))
