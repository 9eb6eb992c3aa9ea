"""Swin's attention within windows by torch's fused kernels, which keep no attention matrix.

Of one crop of 96³ MONAI's SwinUNETR has 343 windows of 343 tokens in its first stage alone, so that
matrices, kept twice for the gradient, are three quarters of what a step holds
(``benchmarks/held.py``). What remains of them is the gradient of what is added to them, of one
block at a time. The formula is that of Liu et al., ICCV 2021 (arXiv 2103.14030, equation
4), softmax(q kᵀ / √d + B) v.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.nets.swin_unetr import WindowAttention
from torch import Tensor, nn


class FusedWindowAttention(WindowAttention):
    """MONAI's ``WindowAttention``, equal up to rounding; see :func:`fuse_attention`."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows.

        Args:
            x: ``(B · W, N, C)``, tokens of the W windows of each of B images.
            mask: ``(W, N, N)``, added where windows were shifted; None where they were not.

        Returns:
            ``(B · W, N, C)``.
        """
        if not has_kernel(x, x.shape[-1] // self.num_heads):
            whole: Tensor = super().forward(x, mask)
            return whole
        count, tokens, _ = x.shape
        index = self.relative_position_index[:tokens, :tokens].flatten()
        table: Tensor = self.relative_position_bias_table
        bias = table[index].unflatten(0, (tokens, tokens)).movedim(-1, 0)
        windows = 1 if mask is None else len(mask)
        if mask is not None:
            bias = bias + mask[:, None]
        # Windows stand beside heads, so that one bias serves all images.
        q, k, v = (
            self.qkv(x)
            .view(count // windows, windows, tokens, 3, self.num_heads, -1)
            .permute(3, 0, 1, 4, 2, 5)
            .flatten(2, 3)
        )
        dropped = self.attn_drop.p if self.training else 0.0
        out = F.scaled_dot_product_attention(
            q, k, v, bias.reshape(1, -1, tokens, tokens).to(q.dtype), dropped, scale=self.scale
        )
        # A copy in any case: how a kernel lays out what it gives is its own, when exported too.
        out = (
            out.unflatten(1, (windows, self.num_heads))
            .movedim(2, 3)
            .clone(memory_format=torch.contiguous_format)
        )
        projected: Tensor = self.proj_drop(self.proj(out.view(x.shape)))
        return projected


def has_kernel(x: Tensor, width: int) -> bool:
    """Whether torch fuses attention of these windows; MONAI's own code runs otherwise.

    On a CPU it does not where a gradient of what is added is wanted, on CUDA not for heads whose
    width is no multiple of 8, nor for more windows than a launch may have blocks along an axis.
    """
    if x.device.type == "cpu":
        return not torch.is_grad_enabled()
    return x.device.type == "cuda" and width % 8 == 0 and len(x) < 2**16


def fuse_attention(network: nn.Module) -> None:
    """Let every ``WindowAttention`` of a network of MONAI's compute by fused kernels.

    Weights and their names stay.
    """
    for module in network.modules():
        if type(module) is WindowAttention:
            module.__class__ = FusedWindowAttention
