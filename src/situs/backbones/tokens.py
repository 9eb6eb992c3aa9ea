"""Vision transformers as backbones: one scale of features, and a light decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.backbones.options import Positive
from situs.backbones.transformer import Mixer, Shape, TokenEncoder
from situs.config import Config
from situs.errors import ConfigError

_UP: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class TokenOptions(Config):
    """What every transformer is told.

    Attributes:
        width: Numbers a token.
        depth: Blocks.
        heads: Attention heads.
        patch: Voxels of a token: one number for all axes, or one an axis.
        grid: Tokens along each axis for which positions are stored; for other sizes they are
            interpolated.
        layer_scale: What each branch is multiplied by at first.
        drop_path_rate: Stochastic depth.
        decoder_channels: Channels of the dense features.
    """

    width: Positive
    depth: Positive
    heads: Positive
    patch: list[Positive] = Field(min_length=1, max_length=3)
    grid: list[Positive] = Field(max_length=3)
    layer_scale: Annotated[float, Field(gt=0)] = 1.0
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    decoder_channels: Positive = 32

    def shape(self, name: str, spatial_dims: int, in_channels: int, **own: Any) -> Shape:
        """The network's shape, with what the backbone ``name`` says itself.

        Raises:
            ConfigError: If ``patch`` or ``grid`` do not fit the axes.
        """
        try:
            patch = per_axis(self.patch, spatial_dims)
            grid = per_axis(self.grid, spatial_dims) if self.grid else ()
        except ValueError as error:
            raise ConfigError(f"patch and grid of backbone '{name}' {error}") from None
        return Shape(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            patch=patch,
            grid=grid,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            scale=self.layer_scale,
            drop_path=self.drop_path_rate,
            **own,
        )


class _LayerNormNd(nn.LayerNorm):
    """Over the channels of a feature map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class _Decoder(nn.Module):
    """Transposed convolutions from tokens to voxels, and nothing else (Primus, section 3.2).

    Capacity in a decoder would let a network do without attention, the paper found; so each
    token paints its own patch.
    """

    def __init__(self, shape: Shape, channels: int) -> None:
        super().__init__()
        steps = up_steps(shape.patch)
        ratio = (channels * 2 / shape.width) ** (1 / len(steps))
        widths = [max(8, round(shape.width * ratio**n / 8) * 8) for n in range(1, len(steps))]
        up = _UP[shape.spatial_dims]
        layers: list[nn.Module] = []
        for before, after, step in zip(
            [shape.width, *widths], [*widths, channels], steps, strict=True
        ):
            layers += [up(before, after, kernel_size=step, stride=step)]
            layers += [_LayerNormNd(after, 1e-6), nn.GELU()]
        self.decode = nn.Sequential(*layers)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        out: Tensor = self.decode(features[-1])
        return out


def up_steps(patch: Sequence[int]) -> list[tuple[int, ...]]:
    """Strides of the steps from tokens to voxels, coarse to fine; their product is ``patch``.

    Each step doubles the axes that can be halved; what is left of an axis comes first.

    >>> up_steps((8, 8, 4)), up_steps((14, 14))
    ([(2, 2, 1), (2, 2, 2), (2, 2, 2)], [(7, 7), (2, 2)])
    """
    fine: list[tuple[int, ...]] = []
    left = tuple(patch)
    while any(n % 2 == 0 for n in left):
        step = tuple(2 if n % 2 == 0 else 1 for n in left)
        fine.append(step)
        left = tuple(n // s for n, s in zip(left, step, strict=True))
    if max(left) > 1 or not fine:
        fine.append(left)
    return fine[::-1]


class TokenBackbone(Backbone):
    """A vision transformer as a backbone: one scale of features, and a light decoder.

    Args:
        shape: What it is made of.
        decoder_channels: See :class:`Backbone`.
    """

    encoder: TokenEncoder

    def __init__(self, shape: Shape, decoder_channels: int) -> None:
        super().__init__()
        self.spatial_dims = shape.spatial_dims
        self.in_channels = shape.in_channels
        self.channels = (shape.width,)
        self.strides = (shape.patch,)
        self.decoder_channels = decoder_channels
        self._shape = shape
        self.encoder = TokenEncoder(shape)
        self.decoder = _Decoder(shape, decoder_channels)

    def encode(self, x: Tensor) -> list[Tensor]:
        """See :meth:`Backbone.encode`."""
        self.check_size(x.shape[2:])
        return [self.encoder(x).transpose(1, 2).unflatten(2, self._grid(x))]

    def encode_seen(self, x: Tensor, seen: Tensor) -> list[Tensor]:
        """Features of the tokens that are looked at; zero elsewhere.

        What is not looked at is not computed (He et al., arXiv 2111.06377, section 3).

        Args:
            x: As in :meth:`encode`.
            seen: Boolean ``(B, *grid)``, a grid of tokens; as many true in every image.

        Raises:
            ValueError: If images differ in how many of their tokens are looked at.
        """
        self.check_size(x.shape[2:])
        flat = seen.flatten(1)
        number = int(flat[0].sum())
        if not bool((flat.sum(1) == number).all()):
            raise ValueError("every image of a batch must have as many tokens that are seen")
        indices = flat.nonzero()[:, 1].view(len(x), number)
        found = self.encoder(x, indices)
        full = found.new_zeros(*flat.shape, found.shape[-1])
        full.scatter_(1, indices[..., None].expand_as(found), found)
        return [full.transpose(1, 2).unflatten(2, self._grid(x))]

    def mixer(self, depth: int) -> Mixer:
        """Blocks like the encoder's, untrained, that let features see each other."""
        return Mixer(self._shape, depth)

    def encoder_blocks(self) -> list[list[nn.Module]]:
        """See :meth:`Backbone.encoder_blocks`."""
        *rest, last = ([block] for block in self.encoder.blocks)
        return [[self.encoder.embed], *rest, [*last, self.encoder.norm]]

    def _grid(self, x: Tensor) -> tuple[int, ...]:
        return tuple(n // p for n, p in zip(x.shape[2:], self._shape.patch, strict=True))


def per_axis(values: Sequence[int], spatial_dims: int) -> tuple[int, ...]:
    """One number for all axes, or one an axis, as one an axis.

    Raises:
        ValueError: If there are neither one nor ``spatial_dims`` numbers.
    """
    if len(values) == 1:
        return (values[0],) * spatial_dims
    if len(values) != spatial_dims:
        raise ValueError(f"must have one number or {spatial_dims}, got {list(values)}")
    return tuple(values)
