"""MONAI's attention within windows against the fused one: processor time of a Swin transformer.

``OMP_NUM_THREADS=1 python -m benchmarks.windows``. Medians of rounds in which both take turns, of
the same weights and image; ``look`` without gradient, ``step`` forward and backward. What a GPU
holds is counted by ``benchmarks.held``.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from statistics import median

import torch
from monai.networks.nets.swin_unetr import SwinUNETR
from torch import Tensor, nn

from situs.backbones.window_attention import fuse_attention

SIZES = ((2, 64), (1, 96))
ROUNDS = 7


def look(network: nn.Module, image: Tensor) -> None:
    with torch.no_grad():
        network(image)


def step(network: nn.Module, image: Tensor) -> None:
    network.zero_grad(set_to_none=True)
    torch.stack([f.square().mean() for f in network(image)]).sum().backward()


def seconds(run: Callable[[nn.Module, Tensor], None], network: nn.Module, image: Tensor) -> float:
    begin = time.process_time()
    run(network, image)
    return time.process_time() - begin


def main() -> None:
    """One line a size and kind."""
    torch.manual_seed(0)
    theirs = SwinUNETR(1, 1, feature_size=48).swinViT
    ours = copy.deepcopy(theirs)
    fuse_attention(ours)
    print("crops        MONAI, s  fused, s  times faster")
    for count, size in SIZES:
        image = torch.randn(count, 1, size, size, size)
        for run in (look, step):
            run(theirs, image), run(ours, image)
            pairs = [[seconds(run, net, image) for net in (theirs, ours)] for _ in range(ROUNDS)]
            one, other = (median(times) for times in zip(*pairs, strict=True))
            ratio = median(a / b for a, b in pairs)
            print(
                f"{count} × {size}³ {run.__name__}{one:10.2f}{other:10.2f}{ratio:10.2f}", flush=True
            )


if __name__ == "__main__":
    main()
