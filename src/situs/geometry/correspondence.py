"""Which tokens of a region and of its moved copy look at the same place, in closed form.

A token grid ``(nx, ny, nz)`` tiles a region. Token ``k`` along an axis of ``n`` tokens has the
coordinate ``k − (n − 1) / 2``, in tokens about the grid's centre; an affine in token units takes
the source's coordinates to those of the moved copy. Flat indices run over the last axis first,
as ``reshape`` and :func:`numpy.ravel_multi_index` do.

That a pair counts only if each is the other's nearest is s2dc's (arXiv 2507.02581); the closed form
is ours: token centres form an axis-aligned lattice, so the nearest one is found by rounding each
coordinate, whatever the tokens' extent in mm along each axis: no distance matrix is needed, and
the cost is linear in the number of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from situs.tensors import constant


def token_affine(affine_mm: Tensor, token_mm: Tensor) -> Tensor:
    """The affine in token units for an affine in mm about the same centre.

    With tokens of extent ``t`` mm along each axis, ``x ↦ L x + d`` becomes
    ``(t⁻¹ L t) x + t⁻¹ d``: exact for any anisotropy.

    Args:
        affine_mm: ``(…, 4, 4)``, mm along the grid's own axes to mm, about the grid's centre.
        token_mm: ``(…, 3)``, extent of a token along each axis in mm.

    Returns:
        ``(…, 4, 4)``.
    """
    size = torch.nn.functional.pad(token_mm, (0, 1), value=1.0)
    return affine_mm * size[..., None, :] / size[..., :, None]


def token_centres(grid_shape: Sequence[int], like: Tensor) -> Tensor:
    """Coordinates of all tokens about the grid's centre, ``(N, 3)``, flat index order."""
    axes = [torch.arange(n, dtype=like.dtype, device=like.device) - (n - 1) / 2 for n in grid_shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)


def map_tokens(affine: Tensor, grid_shape: Sequence[int]) -> Tensor:
    """Where each source token's centre lands in the moved copy.

    Args:
        affine: ``(…, 4, 4)`` in token units about the grid's centre.
        grid_shape: Tokens along each axis.

    Returns:
        ``(…, N, 3)``, in tokens about the centre of the moved grid.
    """
    centres = token_centres(grid_shape, affine)
    return centres @ affine[..., :3, :3].mT + affine[..., None, :3, 3]


def match_targets(affine: Tensor, grid_shape: Sequence[int]) -> Tensor:
    """The moved token that each source token matches, for a batch of affines at once.

    Source token i and moved token j match if j is the nearest to where i is mapped, and i the
    nearest to where j is mapped back. A centre that leaves the region matches nothing. A centre
    exactly between two tokens counts as nearest to the one of lower index along that axis.

    Args:
        affine: ``(…, 4, 4)`` in token units about the grid's centre, source to moved copy.
        grid_shape: Tokens along each axis.

    Returns:
        ``(…, N)`` flat indices of moved tokens, −1 where there is none.
    """
    forth = _nearest(map_tokens(affine, grid_shape), grid_shape)
    back = _nearest(map_tokens(torch.linalg.inv_ex(affine).inverse, grid_shape), grid_shape)
    returned = torch.gather(back, -1, forth.clamp(min=0))
    itself = torch.arange(forth.shape[-1], device=forth.device)
    return torch.where((forth >= 0) & (returned == itself), forth, -1)


def match_matrix(targets: Tensor) -> Tensor:
    """:func:`match_targets` as a boolean matrix ``(…, N, N)``, source × moved."""
    itself = torch.arange(targets.shape[-1], device=targets.device)
    return targets[..., None] == itself


def mutual_matches(
    affine: npt.ArrayLike | Tensor, grid_shape: Sequence[int]
) -> npt.NDArray[np.int64]:
    """Pairs of tokens, of a region and of its moved copy, that are each other's nearest.

    See :func:`match_targets` for the rule, and for batches of affines.

    Args:
        affine: ``(4, 4)`` in token units about the grid's centre, source to moved copy.
        grid_shape: Tokens along each axis, ``(nx, ny, nz)``.

    Returns:
        ``(M, 2)`` flat indices (source, moved), sorted by source; each index occurs at most once
        in its column.

    Raises:
        ValueError: If ``affine`` is not a finite, invertible 4×4 matrix, or the grid not three
            positive numbers.
    """
    matrix = torch.as_tensor(np.asarray(affine, dtype=np.float64))
    if matrix.shape != (4, 4) or not bool(matrix.isfinite().all()):
        raise ValueError(f"affine must be a finite (4, 4) matrix, got shape {tuple(matrix.shape)}")
    if float(torch.linalg.det(matrix[:3, :3])) == 0:
        raise ValueError("affine must be invertible; the determinant of its 3×3 part is 0")
    if len(grid_shape) != 3 or any(int(n) < 1 for n in grid_shape):
        raise ValueError(f"grid_shape must be three positive numbers, got {tuple(grid_shape)}")
    targets = match_targets(matrix, grid_shape).numpy()
    source = np.flatnonzero(targets >= 0)
    return np.stack([source, targets[source]], axis=1)


def _nearest(coordinates: Tensor, grid_shape: Sequence[int]) -> Tensor:
    """Flat index of the token nearest to each of ``(…, N, 3)`` coordinates, −1 outside."""
    n = constant(grid_shape, coordinates, torch.long)
    # Ties are decided in favour of the lower index, with a margin over rounding errors, so that
    # they fall the same way on every machine and for every way of computing the inverse.
    margin = 1e-9 if coordinates.dtype == torch.float64 else 1e-4
    index = torch.ceil(coordinates + ((n - 1) / 2 - 0.5 - margin)).long()
    inside = ((index >= 0) & (index < n)).all(-1)
    flat = (index[..., 0] * n[1] + index[..., 1]) * n[2] + index[..., 2]
    return torch.where(inside, flat, -1)
