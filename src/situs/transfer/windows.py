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
    background: Sequence[float] = (0.0,),
) -> Tensor:
    """Class probabilities of every voxel by Gaussian-weighted sliding windows.

    Args:
        model: ``(B, C, *patch)`` → logits ``(B, K, *patch)``; in ``eval`` mode.
        image: ``(C, X, Y, Z)``.
        framing: Window size, and slice axis for a 2D network.
        overlap: Of neighbouring windows, 0 to 1.
        flip_axes: Volume axes; probabilities are averaged over all combinations of flips.
        background: What lies outside the scan, one value a channel, for a scan smaller than a
            window.

    Returns:
        ``(K, X, Y, Z)`` on the CPU.
    """
    device = next(model.parameters()).device
    total: Tensor | None = None
    flips = list(_subsets(flip_axes))
    size = framing.in_volume(framing.patch_size)
    whole = pad_to(image[None], size, background)[0]
    inside = tuple(
        slice((w - n) // 2, (w - n) // 2 + n)
        for w, n in zip(whole.shape[1:], image.shape[1:], strict=True)
    )
    for axes in flips:
        there = [a + 1 for a in axes]
        logits = sliding_window_inference(
            framing.to_batch(whole.flip(there)),
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
    return total.div_(len(flips))[(slice(None), *inside)]


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
    background: Sequence[float] = (0.0,),
) -> Tensor:
    """Class probabilities of a scan: the mean over its windows (slices, for a 2D network).

    Args:
        model: ``(B, C, *patch)`` → logits ``(B, K)``; in ``eval`` mode.
        image: ``(C, X, Y, Z)``.
        framing: As in :func:`segment`.
        multi_label: Sigmoid a class instead of softmax over classes.
        overlap: As in :func:`segment`.
        flip_axes: As in :func:`segment`.
        background: As in :func:`segment`.

    Returns:
        ``(K,)`` on the CPU.
    """
    device = next(model.parameters()).device
    rows = []
    for axes in _subsets(flip_axes):
        batch = framing.to_batch(image.flip([a + 1 for a in axes]))
        for windows in _windows(batch, framing.patch_size, overlap, background):
            logits = model(windows.to(device)).cpu()
            rows.append(logits.sigmoid() if multi_label else logits.softmax(1))
    return torch.cat(rows).mean(0)


def _windows(
    batch: Tensor, size: Sequence[int], overlap: float, background: Sequence[float]
) -> Iterator[Tensor]:
    """Windows that cover ``(N, C, *spatial)``, a few at a time; small volumes are padded."""
    batch = pad_to(batch, size, background)
    steps = [max(1, int(s * (1 - overlap))) for s in size]
    places = dense_patch_slices(batch.shape[2:], list(size), steps)
    windows = (item[(slice(None), *place)] for place in places for item in batch)
    while chosen := list(islice(windows, _WINDOWS_AT_ONCE)):
        yield torch.stack(chosen)


def pad_to(batch: Tensor, size: Sequence[int], background: Sequence[float] = (0.0,)) -> Tensor:
    """Air on both sides of ``(N, C, *spatial)`` until it is at least ``size``.

    Args:
        batch: Scans, slices or parts of them.
        size: Along each axis.
        background: What lies outside, one value for all channels or one a channel.
    """
    missing = [max(0, s - n) for s, n in zip(size, batch.shape[2:], strict=True)]
    if not any(missing):
        return batch
    shape = [n + m for n, m in zip(batch.shape[2:], missing, strict=True)]
    air = batch.new_tensor(list(background)).reshape(1, -1, *(1,) * len(shape))
    padded = air.expand(*batch.shape[:2], *shape).clone()
    inside = (slice(m // 2, m // 2 + n) for n, m in zip(batch.shape[2:], missing, strict=True))
    padded[(slice(None), slice(None), *inside)] = batch
    return padded


def _subsets(axes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1))
