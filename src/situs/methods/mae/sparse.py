"""Dense emulation of sparse convolution: hidden places stay empty all through an encoder.

A dense CNN that looks at an image with blank blocks sees the blanks: they leak inwards with
every layer, and normalisation mixes them into the statistics. SparK (Tian et al., "Designing
BERT for Convolutional Networks", arXiv 2301.03580, section 3.1) uses submanifold sparse
convolution instead. The same numbers come from a dense convolution whose output is blanked again
at hidden places, and from normalisation whose statistics are taken over visible places only. Here
both are put in for the time of one pass, so that any convolutional encoder is used unchanged.

A coarse feature counts as visible if any voxel under it is. With blocks that are multiples of
the encoder's largest stride, which the method makes sure of, that is exact; with smaller blocks
coarse scales would be denser than the input. Normalisation relies on hidden places being zero
already: convolutions and pooling are blanked, and activations of zero are zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from situs.methods.distributed import batch_norm
from situs.methods.normalising import group_norm

_POOLS = (nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d)


def is_convolutional(encoder: nn.Module) -> bool:
    """Whether places talk to each other through convolutions only, not through attention."""
    return not any("attention" in type(m).__name__.lower() for m in encoder.modules())


def at_size(visible: Tensor, size: torch.Size) -> Tensor:
    """``visible (B, 1, *spatial)`` at a coarser size: where any voxel below is visible."""
    if visible.shape[2:] == size:
        return visible
    if all(fine % coarse == 0 for fine, coarse in zip(visible.shape[2:], size, strict=True)):
        pool = F.max_pool3d if visible.ndim == 5 else F.max_pool2d
        return pool(visible, [f // c for f, c in zip(visible.shape[2:], size, strict=True)])
    adaptive = F.adaptive_max_pool3d if visible.ndim == 5 else F.adaptive_max_pool2d
    return adaptive(visible, tuple(size))


@contextmanager
def sparse_encoding(encoder: nn.Module, visible: Tensor) -> Iterator[None]:
    """While active, ``encoder`` keeps hidden places at zero after every layer.

    Args:
        encoder: Made of convolutions, pooling and normalisation.
        visible: ``(B, 1, *spatial)``, 1 at visible voxels of the input and 0 at hidden ones.
    """
    cache: dict[tuple[torch.Size, torch.dtype], Tensor] = {}

    def mask_like(x: Tensor) -> Tensor:
        key = (x.shape[2:], x.dtype)
        if key not in cache:
            cache[key] = at_size(visible, x.shape[2:]).to(x.dtype)
        return cache[key]

    def blank(module: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        mask = mask_like(output)
        # No convolution asks for its output again, so it need not be kept beside the blanked one.
        return output.mul_(mask) if isinstance(module, _ConvNd) else output * mask

    norms: list[nn.Module] = []
    hooks = []
    for module in encoder.modules():
        if isinstance(module, _InstanceNorm | _BatchNorm | nn.GroupNorm):
            norms.append(module)
            # An instance attribute hides the class's forward until it is deleted again.
            module.forward = partial(_masked_norm, module, mask_like)  # type: ignore[method-assign]
        elif isinstance(module, (_ConvNd, *_POOLS)):
            hooks.append(module.register_forward_hook(blank))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in norms:
            del module.forward


def _masked_norm(module: nn.Module, mask_like: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What ``module`` would give if hidden places did not exist; they stay zero."""
    mask = mask_like(x)
    if isinstance(module, _BatchNorm):
        return batch_norm(module, x, mask)
    assert isinstance(module, nn.GroupNorm | _InstanceNorm)
    groups = module.num_groups if isinstance(module, nn.GroupNorm) else x.shape[1]
    return group_norm(x, groups, module.weight, module.bias, module.eps, mask)
