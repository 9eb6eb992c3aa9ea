"""MONAI's SwinUNETR (Hatamizadeh et al., BrainLes 2021), seen as encoder and decoder.

The encoder is the Swin transformer alone, whose five outputs are the scales that methods read:
the authors of s2dc and of VoCo take the coarsest of them, ``hidden[4]``, as it is. The
convolutional blocks between transformer and up-sampling (``encoder1`` to ``encoder4`` and
``encoder10`` in MONAI) belong to the decoder: they are computed, and trained, only where something
is decoded. Parts keep MONAI's names: encoder and decoder together are a state of
``monai.networks.nets.SwinUNETR`` without its output layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from monai.networks.nets.swin_unetr import SwinUNETR
from pydantic import Field
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.backbones.options import Norm, Positive, min_coarse_voxels, monai_norm
from situs.backbones.window_attention import fuse_attention
from situs.config import Config

_STAGES = 4  # fixed in MONAI's class
_TRANSFORMER = "swinViT."
_DEPTHS = ("patch_embed", "layers1", "layers2", "layers3", "layers4")
_SKIPS = ("encoder1", "encoder2", "encoder3", "encoder4")
_BOTTOM = "encoder10"
_UP = ("decoder5", "decoder4", "decoder3", "decoder2", "decoder1")
_WRAPPERS = ("module.", "backbone.", "student.", "network.", "model.")


class SwinUnetrOptions(Config):
    """Options of the ``swin_unetr`` backbone; the names are MONAI's.

    Attributes:
        feature_size: Channels of the first stage; 48 in the published pretrained models.
        depths: Transformer blocks of each of the four stages.
        num_heads: Attention heads of each stage; each divides its stage's channels.
        window_size: Tokens along each axis that attend to each other.
        norm: Of the convolutional blocks. ``instance`` needs inputs larger than 32 along an
            axis; ``group`` takes 32 too.
        drop_path_rate: Stochastic depth.
        use_checkpoint: Recompute activations in the backward pass to save memory.
        use_v2: A residual convolution before each stage, SwinUNETR-V2 (He et al., MICCAI 2023).
    """

    feature_size: Annotated[int, Field(gt=0, multiple_of=12)] = 24
    depths: Annotated[list[Positive], Field(min_length=_STAGES, max_length=_STAGES)] = Field(
        default=[2, 2, 2, 2]
    )
    num_heads: Annotated[list[Positive], Field(min_length=_STAGES, max_length=_STAGES)] = Field(
        default=[3, 6, 12, 24]
    )
    window_size: Positive = 7
    norm: Norm = "instance"
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    use_checkpoint: bool = False
    use_v2: bool = False


class _Encoder(nn.Module):
    """The Swin transformer; the image itself is the first scale, which the first skip reads."""

    def __init__(self, network: SwinUNETR) -> None:
        super().__init__()
        self.swinViT = network.swinViT
        self.normalize = network.normalize

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, *self.swinViT(x, self.normalize)]


class _Decoder(nn.Module):
    """Convolutional blocks on the skips and at the bottom, then up-sampling, coarse to fine."""

    def __init__(self, network: SwinUNETR) -> None:
        super().__init__()
        for name in (*_SKIPS, _BOTTOM, *_UP):
            setattr(self, name, getattr(network, name))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        # MONAI hands the second coarsest scale on as it is.
        *fine, coarse, bottom = features
        skips = [getattr(self, name)(f) for name, f in zip(_SKIPS, fine, strict=True)]
        x: Tensor = getattr(self, _BOTTOM)(bottom)
        for name, skip in zip(_UP, reversed([*skips, coarse]), strict=True):
            x = getattr(self, name)(x, skip)
        return x


class SwinUnetr(Backbone):
    """SwinUNETR in 2D or 3D; the coarsest of its six scales spans 32 voxels.

    The first scale is the image.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the input.
        options: Its size.
    """

    Options = SwinUnetrOptions

    moved: ClassVar[dict[str, str]] = {f"{name}.": "decoder" for name in (*_SKIPS, _BOTTOM)}

    def __init__(
        self, spatial_dims: int = 3, in_channels: int = 1, options: SwinUnetrOptions | None = None
    ) -> None:
        super().__init__()
        options = options or SwinUnetrOptions()
        size = options.feature_size
        network = SwinUNETR(
            in_channels=in_channels,
            out_channels=1,
            feature_size=size,
            depths=options.depths,
            num_heads=options.num_heads,
            window_size=options.window_size,
            norm_name=monai_norm(options.norm, [size]),
            dropout_path_rate=options.drop_path_rate,
            use_checkpoint=options.use_checkpoint,
            use_v2=options.use_v2,
            spatial_dims=spatial_dims,
        )
        fuse_attention(network)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.channels = (in_channels, size, 2 * size, 4 * size, 8 * size, 16 * size)
        self.strides = tuple((2**scale,) * spatial_dims for scale in range(len(self.channels)))
        self.decoder_channels = size
        self.min_coarse_voxels = min_coarse_voxels(options.norm)
        self.encoder = _Encoder(network)
        self.decoder = _Decoder(network)

    def encoder_blocks(self) -> list[list[nn.Module]]:
        """See :meth:`Backbone.encoder_blocks`."""
        transformer = self.encoder.get_submodule("swinViT")
        parts = dict(transformer.named_children())
        # The convolution of V2 comes just before its stage.
        return [[parts[n] for n in (depth, f"{depth}c") if n in parts] for depth in _DEPTHS]


def from_monai(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The parts of a SwinUNETR state that others wrote, under the names of this backbone.

    Takes the states of MONAI's ``SwinUNETR``, of its self-supervised ``model_swinvit.pt`` (the
    transformer alone, its perceptrons called ``fc1`` and ``fc2``) and of VoCo, with the prefixes
    that wrappers leave (``module.``, ``backbone.``, …).

    Returns:
        ``"encoder"`` and ``"decoder"``, ready for :func:`situs.weights.ledger.fill`, and
        ``"other"``: what is of neither, such as heads, the teacher and the output layer.
    """
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "decoder": {}, "other": {}}
    decoded = (*_SKIPS, _BOTTOM, *_UP)
    for name, tensor in state.items():
        bare = name
        while prefix := next((w for w in _WRAPPERS if bare.startswith(w)), ""):
            bare = bare.removeprefix(prefix)
        head = bare.split(".", 1)[0]
        if head.removesuffix("c") in _DEPTHS:
            bare, head = _TRANSFORMER + bare, _TRANSFORMER[:-1]
        if head == _TRANSFORMER[:-1]:
            bare = bare.replace(".mlp.fc", ".mlp.linear")
            parts["encoder"][bare] = tensor
        elif head in decoded:
            parts["decoder"][bare] = tensor
        else:
            parts["other"][name] = tensor
    return parts
