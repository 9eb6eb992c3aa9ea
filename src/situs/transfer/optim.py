"""Who learns how fast and how far: layer-wise decay, a pull to the weights, frozen parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from situs.backbones import Backbone

Group = dict[str, Any]


def parameter_groups(
    backbone: Backbone, head: nn.Module, lr: float, layer_decay: float
) -> list[Group]:
    """Optimiser groups: head and decoder at ``lr``, encoder block i of n at ``lr·decay^(n−i)``.

    The last encoder block (i = n−1) learns ``layer_decay`` times as fast as the decoder, the
    first ``layer_decay**n`` times (as in BEiT, arXiv 2106.08254). That the backbone says what
    a block is, so that stages of convolutions count too, is ours: BEiT's are a transformer's.
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


class PullToWeights:
    """Weight decay towards the weights that a training begins with, instead of towards 0.

    After each step of the optimiser ``w ← w + lr·strength·(w₀ − w)``, with the learning rate of
    the parameter's group. This is L2-SP (X. Li, Y. Grandvalet, F. Davoine, ICML 2018, arXiv
    1802.01483, equation 2) in the decoupled form that AdamW gives weight decay (arXiv 1711.05101);
    the decoupling is ours.

    Args:
        modules: Those whose parameters are pulled to the values that they have now.
        strength: Of the pull. The rates of a training add up to about half its steps times the
            peak rate: with 500 steps at 0.001 a strength of 1 undoes a fifth of a change made at
            the beginning, 10 nine tenths.
    """

    def __init__(self, modules: Iterable[nn.Module], strength: float) -> None:
        self.strength = strength
        self._weights = {p: p.detach().clone() for m in modules for p in m.parameters()}

    @property
    def weights(self) -> list[Tensor]:
        """What is pulled to, in the order of the modules' parameters."""
        return list(self._weights.values())

    @weights.setter
    def weights(self, values: Iterable[Tensor]) -> None:
        self._weights = dict(zip(self._weights, values, strict=True))

    def hold(self, optimiser: torch.optim.Optimizer) -> None:
        """Pull after each step of ``optimiser``; nothing else decays the parameters."""
        for group in optimiser.param_groups:
            if any(p in self._weights for p in group["params"]):
                group["weight_decay"] = 0.0  # groups are whole modules: pulled or not
        optimiser.register_step_post_hook(self._pull)

    @torch.no_grad()
    def _pull(self, optimiser: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimiser.param_groups:
            moving = [p for p in group["params"] if p in self._weights and p.grad is not None]
            if not moving:
                continue
            towards: list[Tensor] = []
            for parameter in moving:
                # Lightning moves parameters to the device in place, after this was made.
                weights = self._weights[parameter].to(parameter.device)
                self._weights[parameter] = weights
                towards.append(weights)
            torch._foreach_lerp_(moving, towards, group["lr"] * self.strength)


def freeze(module: nn.Module, frozen: bool = True) -> None:
    """Stop (or resume) the training of ``module``, running statistics included."""
    module.requires_grad_(not frozen)
    module.train(not frozen)
