"""What samplers look at: a prepared scan, in a store or in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from situs.store.crop import Background, crop_padded, least


class Source(Protocol):
    """A prepared scan that crops can be read from without reading all of it.

    The store's ``StoredScan`` is one; ``situs.views.ArraySource`` wraps an array.
    Axes are the scan's own, ordered and directed closest to R, A, S.
    """

    @property
    def key(self) -> str:
        """Name inside the store; holds nothing that identifies a patient."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""

    @property
    def channels(self) -> int:
        """Channels."""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxel centres along each axis."""

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """``(4, 4)``, voxel centres to RAS mm."""

    @property
    def modality(self) -> str:
        """``"MR"``, ``"CT"``, … or ``"unknown"``."""

    @property
    def study(self) -> str:
        """Scans with the same study share a frame of reference."""

    @property
    def description(self) -> str:
        """Role words of the series ("T1", "SAX"), empty when unknown; never free text."""

    @property
    def background(self) -> Background:
        """What lies outside the scan, one value a channel: its own air."""

    def read(self, start: Sequence[int], size: Sequence[int]) -> npt.NDArray[np.float32]:
        """The crop ``(C, *size)`` that begins at voxel ``start``; :attr:`background` outside."""


@dataclass(frozen=True)
class ArraySource:
    """An array ``(C, X, Y, Z)`` already prepared, with its affine; for tests and for transfer.

    Attributes:
        array: The voxels.
        affine: ``(4, 4)``, voxel centres to RAS mm.
        key: Name.
        modality: ``"MR"``, ``"CT"``, … or ``"unknown"``.
        study: Scans with the same study share a frame of reference.
        description: Role words of the series.
        air: What lies outside, one value a channel; the channel's least value where not given.
    """

    array: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64] = field(default_factory=lambda: np.eye(4))
    key: str = "array"
    modality: str = "unknown"
    study: str = ""
    description: str = ""
    air: Background = ()

    @cached_property
    def background(self) -> Background:
        """What lies outside, one value a channel."""
        return self.air or least(self.array)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        x, y, z = self.array.shape[1:]
        return (x, y, z)

    @property
    def channels(self) -> int:
        """Channels."""
        return int(self.array.shape[0])

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxel centres along each axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return (x, y, z)

    def read(self, start: Sequence[int], size: Sequence[int]) -> npt.NDArray[np.float32]:
        """The crop ``(C, *size)`` at voxel ``start``; :attr:`background` outside."""
        return crop_padded(self.array, start, size, self.background)
