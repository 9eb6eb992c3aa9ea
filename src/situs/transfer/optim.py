"""Who learns how fast: layer-wise decay and frozen parts."""

from __future__ import annotations

from typing import Any

from torch import nn

from situs.backbones import Backbone

Group = dict[str, Any]


def parameter_groups(
    backbone: Backbone, head: nn.Module, lr: float, layer_decay: float
) -> list[Group]:
    """Optimiser groups: head and decoder at ``lr``, encoder block i of n at ``lr·decay^(n−i)``.

    The last encoder block (i = n−1) learns ``layer_decay`` times as fast as the decoder, the
    first ``layer_decay**n`` times (as in BEiT, arXiv 2106.08254). The backbone says what a block
    is.
    """
    blocks = backbone.encoder_blocks()
    groups: list[Group] = [
        {"name": "head", "params": list(head.parameters()), "lr": lr},
        {"name": "decoder", "params": list(backbone.decoder.parameters()), "lr": lr},
    ]
    for i, block in enumerate(blocks):
        rate = lr * layer_decay ** (len(blocks) - i)
        params = [parameter for module in block for parameter in module.parameters()]
        groups.append({"name": f"encoder.{i}", "params": params, "lr": rate})
    return groups


def freeze(module: nn.Module, frozen: bool = True) -> None:
    """Stop (or resume) the training of ``module``, running statistics included."""
    module.requires_grad_(not frozen)
    module.train(not frozen)
