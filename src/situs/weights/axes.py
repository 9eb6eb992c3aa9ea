"""Weights between tools that order the axes of an image differently.

situs feeds networks (X, Y, Z): axes towards R, A, S. nnU-Net and nnssl feed (Z, Y, X), or any
other order that their plans ask for. A convolution knows nothing of names: the same weights see
the same anatomy only if each kernel is turned with the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from torch import Tensor

T = TypeVar("T")


def turned(state: Mapping[str, Tensor], order: Sequence[int]) -> dict[str, Tensor]:
    """Weights of a convolutional network for images whose axes come in another order.

    Args:
        state: Kernels are ``(out, in, *spatial)``; tensors of other dimensions stay as they are.
        order: Which of the old spatial axes becomes each of the new ones.

    Returns:
        New tensors where kernels were turned; ``turned(turned(s, o), inverse(o))`` is ``s``.
    """
    axes = (0, 1, *(2 + axis for axis in order))
    return {
        name: tensor.permute(axes).contiguous() if tensor.ndim == len(axes) else tensor
        for name, tensor in state.items()
    }


def inverse(order: Sequence[int]) -> tuple[int, ...]:
    """The order that undoes ``order``."""
    return tuple(int(axis) for axis in np.argsort(order))


def reordered(values: Sequence[T], order: Iterable[int]) -> list[T]:
    """One value an axis, in the new order of the axes."""
    return [values[axis] for axis in order]
