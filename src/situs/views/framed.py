"""Views that show a part of a slice, which alone is interpolated and changed.

Ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Framed:
    """Views that hold one value a channel outside a window of each.

    Attributes:
        parts: ``(N, C, …)``, the windows, rows and columns last.
        starts: ``(N, 2)`` first row and column of each.
        air: ``(C,)``, what lies outside them.
        shape: Rows and columns of a view.
    """

    parts: Array
    starts: npt.NDArray[np.int64]
    air: Array
    shape: tuple[int, int]

    @classmethod
    def of(cls, views: Array) -> Framed:
        """Views ``(N, C, rows, columns)`` that are their own windows."""
        count, channels, rows, columns = views.shape
        nothing = np.zeros(channels, np.float32)
        return cls(views, np.zeros((count, 2), np.int64), nothing, (rows, columns))

    @property
    def hidden(self) -> int:
        """Pixels of a view outside its window."""
        rows, columns = self.parts.shape[-2:]
        return self.shape[0] * self.shape[1] - rows * columns

    def window(self, number: int, margin: int = 0) -> tuple[slice, slice]:
        """The rows and columns of a view's window, and ``margin`` more on each side in the view."""
        first, second = (
            slice(max(start - margin, 0), min(start + size + margin, limit))
            for start, size, limit in zip(
                self.starts[number].tolist(), self.parts.shape[-2:], self.shape, strict=True
            )
        )
        return first, second

    def whole(self) -> Array:
        """The views, ``(N, C, rows, columns)``; the windows themselves where these are all."""
        if not self.hidden:
            return self.parts
        views = np.empty((*self.parts.shape[:2], *self.shape), dtype=np.float32)
        views[:] = self.air[:, None, None]
        for number, (view, part) in enumerate(zip(views, self.parts, strict=True)):
            view[:, *self.window(number)] = part
        return views
