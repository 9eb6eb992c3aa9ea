"""What the adapters' options have in common."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, Any, Literal

from pydantic import Field

from situs.errors import ConfigError

Positive = Annotated[int, Field(gt=0)]
Norm = Literal["instance", "batch", "group"]
PerStep = list[Positive] | list[list[Positive]]
"""One entry for all steps or one a step, each a number for all axes or a number an axis."""

_GROUPS = 4


def monai_norm(norm: Norm, channels: Sequence[int]) -> tuple[str, dict[str, Any]]:
    """A normalisation in the form that MONAI's blocks take.

    Raises:
        ConfigError: If the channels cannot be grouped.
    """
    if norm == "group" and any(c % _GROUPS for c in channels):
        raise ConfigError(
            f"norm 'group' needs channels that are multiples of {_GROUPS}, got {list(channels)}"
        )
    forms: dict[Norm, tuple[str, dict[str, Any]]] = {
        "instance": ("INSTANCE", {"affine": True}),
        "batch": ("BATCH", {}),
        "group": ("GROUP", {"num_groups": _GROUPS}),
    }
    return forms[norm]


def min_coarse_voxels(norm: Norm) -> int:
    """See :attr:`Backbone.min_coarse_voxels`: a single voxel has no variance to divide by."""
    return 2 if norm == "instance" else 1


def per_step(values: PerStep, steps: int, spatial_dims: int, name: str) -> list[tuple[int, ...]]:
    """The value of every step along every axis, from the short forms that options allow.

    Raises:
        ConfigError: When there are neither one nor ``steps`` entries, or one has a wrong length.
    """
    full = [(v,) * spatial_dims if isinstance(v, int) else tuple(v) for v in values]
    if len(full) == 1:
        full = full * steps
    if len(full) != steps or any(len(v) != spatial_dims for v in full):
        raise ConfigError(
            f"{name} must have one entry or {steps}, each a number or {spatial_dims} numbers, "
            f"got {list(values)}"
        )
    return full


def cumulative_strides(
    steps: Sequence[tuple[int, ...]], spatial_dims: int
) -> tuple[tuple[int, ...], ...]:
    """:attr:`Backbone.strides` of scales that begin at input resolution.

    Args:
        steps: Stride from each scale to the next, per axis.
        spatial_dims: 2 or 3.
    """
    return tuple(accumulate(steps, _times, initial=(1,) * spatial_dims))


def _times(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x * y for x, y in zip(a, b, strict=True))
