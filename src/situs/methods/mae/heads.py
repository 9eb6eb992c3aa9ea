"""What fills the gaps, and what turns decoder features back into intensities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.backbones.tokens import TokenBackbone
from situs.methods.mae.sparse import at_size

_MIXING = 2  # blocks; He et al. find that few suffice where the encoder is fine-tuned
_CONV = {2: nn.Conv2d, 3: nn.Conv3d}


class MaeHeads(nn.Module):
    """Learned tokens for hidden places and a linear map to intensities.

    Filling the scales of a convolutional encoder is SparK's (arXiv 2301.03580, section 3.2), blocks
    that mix visible and hidden tokens are MAE's (arXiv 2111.06377, section 3). Decoding with the
    backbone's own decoder, so that it is trained too, and mask tokens in the input of other
    encoders are ours.

    Args:
        backbone: Gives channels and dimensions.
        masking: With ``"sparse"`` and ``"tokens"`` hidden features get one token a scale (SparK's
            "densify"), which with ``"tokens"`` then see the others through attention; with
            ``"input"`` one token a channel stands in for hidden voxels of the input.
    """

    def __init__(self, backbone: Backbone, masking: str) -> None:
        super().__init__()
        widths = (backbone.in_channels,) if masking == "input" else backbone.channels
        self.tokens = nn.ParameterList(nn.Parameter(0.02 * torch.randn(w)) for w in widths)
        self.mixer: nn.Module = nn.Identity()
        if masking == "tokens":
            assert isinstance(backbone, TokenBackbone)
            self.mixer = backbone.mixer(_MIXING)
        self.to_image = _CONV[backbone.spatial_dims](
            backbone.decoder_channels, backbone.in_channels, 1
        )

    def fill(self, features: Sequence[Tensor], visible: Tensor) -> list[Tensor]:
        """Put each scale's token where nothing was seen.

        Args:
            features: Fine to coarse, as the backbone's ``encode`` gives; or just the input.
            visible: ``(B, 1, *spatial)`` at input resolution.
        """
        return [
            torch.where(at_size(visible, f.shape[2:]) > 0, f, _spread(token, f))
            for f, token in zip(features, self.tokens, strict=True)
        ]


def _spread(token: Tensor, like: Tensor) -> Tensor:
    return token.to(like.dtype).view(1, -1, *(1,) * (like.ndim - 2)).expand_as(like)
