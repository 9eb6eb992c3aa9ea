"""Applying a network to whole volumes: windows, slices and flips put together again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, combinations, islice

import torch
from monai.data.utils import dense_patch_slices
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from situs.transfer.patches import Framing

_WINDOWS_AT_ONCE = 8
_SLAB = 16


@torch.no_grad()
def segment(
    model: nn.Module,
    image: Tensor,
    framing: Framing,
    overlap: float = 0.5,
    flip_axes: Sequence[int] = (),
) -> Tensor:
    """Class probabilities of every voxel by Gaussian-weighted sliding windows.

    Args:
        model: ``(B, C, *patch)`` → logits ``(B, K, *patch)``; in ``eval`` mode.
        image: ``(C, X, Y, Z)``.
        framing: Window size, and slice axis for a 2D network.
        overlap: Of neighbouring windows, 0 to 1.
        flip_axes: Volume axes; probabilities are averaged over all combinations of flips.

    Returns:
        ``(K, X, Y, Z)`` on the CPU.
    """
    device = next(model.parameters()).device
    total: Tensor | None = None
    flips = list(_subsets(flip_axes))
    for axes in flips:
        there = [a + 1 for a in axes]
        logits = sliding_window_inference(
            framing.to_batch(image.flip(there)),
            roi_size=framing.patch_size,
            sw_batch_size=_WINDOWS_AT_ONCE,
            predictor=model,
            overlap=overlap,
            mode="gaussian",
            sw_device=device,
            # Windows are small, but the classes of a whole CT may not fit a GPU.
            device=torch.device("cpu"),
        )
        _softmax_in_place(logits)
        volume = framing.from_batch(logits)
        if there:
            volume = volume.flip(there)
        total = volume if total is None else total.add_(volume)
    if total is None:
        raise AssertionError("there is always the unflipped volume")
    return total.div_(len(flips))


def _softmax_in_place(logits: Tensor) -> None:
    """Logits ``(N, K, *spatial)`` become probabilities, a slab at a time.

    All classes of a large CT take gigabytes; a second copy of them may not fit.
    """
    for slab in logits.split(_SLAB, dim=2):
        slab.copy_(slab.softmax(1))


@torch.no_grad()
def classify(
    model: nn.Module,
    image: Tensor,
    framing: Framing,
    multi_label: bool,
    overlap: float = 0.5,
    flip_axes: Sequence[int] = (),
) -> Tensor:
    """Class probabilities of a scan: the mean over its windows (slices, for a 2D network).

    Args:
        model: ``(B, C, *patch)`` → logits ``(B, K)``; in ``eval`` mode.
        image: ``(C, X, Y, Z)``.
        framing: As in :func:`segment`.
        multi_label: Sigmoid a class instead of softmax over classes.
        overlap: As in :func:`segment`.
        flip_axes: As in :func:`segment`.

    Returns:
        ``(K,)`` on the CPU.
    """
    device = next(model.parameters()).device
    rows = []
    for axes in _subsets(flip_axes):
        batch = framing.to_batch(image.flip([a + 1 for a in axes]))
        for windows in _windows(batch, framing.patch_size, overlap):
            logits = model(windows.to(device)).cpu()
            rows.append(logits.sigmoid() if multi_label else logits.softmax(1))
    return torch.cat(rows).mean(0)


def _windows(batch: Tensor, size: Sequence[int], overlap: float) -> Iterator[Tensor]:
    """Windows that cover ``(N, C, *spatial)``, a few at a time; small volumes are padded."""
    batch = pad_to(batch, size)
    steps = [max(1, int(s * (1 - overlap))) for s in size]
    places = dense_patch_slices(batch.shape[2:], list(size), steps)
    windows = (item[(slice(None), *place)] for place in places for item in batch)
    while chosen := list(islice(windows, _WINDOWS_AT_ONCE)):
        yield torch.stack(chosen)


def pad_to(batch: Tensor, size: Sequence[int]) -> Tensor:
    """Zeros on both sides of ``(N, C, *spatial)`` until it is at least ``size``."""
    missing = [max(0, s - n) for s, n in zip(size, batch.shape[2:], strict=True)]
    pads = [(m // 2, m - m // 2) for m in missing]
    return torch.nn.functional.pad(batch, list(chain.from_iterable(reversed(pads))))


def _subsets(axes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1))
