"""Masked autoencoding as a :class:`~situs.methods.base.Method`."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from situs.backbones.base import Backbone
from situs.backbones.tokens import TokenBackbone
from situs.config import validate
from situs.errors import ConfigError
from situs.methods.base import Batch, Losses, Nets, Network
from situs.methods.mae.config import MaeConfig
from situs.methods.mae.heads import MaeHeads
from situs.methods.mae.losses import reconstruction
from situs.methods.mae.observation import ObservedMae, Predicted
from situs.methods.mae.sparse import at_size, is_convolutional, sparse_encoding
from situs.methods.mae.views import every_view, fitted_block, sample_masked, to_voxels
from situs.methods.passes import few_at_a_time
from situs.methods.projection import pooled
from situs.views.source import Source


class Mae(ObservedMae):
    """Hide blocks of a sub-volume and rebuild them from the rest."""

    name = "mae"
    title = "Masked autoencoding"
    paper = (
        "He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022 (arXiv "
        "2111.06377); for CNNs Tian et al., SparK, ICLR 2023 (arXiv 2301.03580)"
    )
    formulas: ClassVar[dict[str, str]] = {
        "reconstruction": "mean over hidden voxels of (predicted − (x − block mean) / block std)²",
    }
    remedy = "hide more (mask_ratio), use larger blocks, or lower the learning rate"
    trains_decoder = True
    shows = "view_size"
    Config = MaeConfig

    def resolve_for_backbone(self, backbone: Backbone) -> Self:
        """Fill ``block_size``; see :func:`~situs.methods.mae.views.fitted_block`."""
        seen_through = self._masking(backbone) == "input"
        stride = (1,) * self.spatial_dims if seen_through else backbone.divisor
        block = fitted_block(self.config.block_size, stride)
        filled = {**self.config.model_dump(), "block_size": block}
        return type(self)(validate(MaeConfig, filled))

    def sample(self, scan: Source, rng: np.random.Generator) -> Batch:
        """Masked sub-volumes; see :func:`~situs.methods.mae.views.sample_masked`."""
        config = self.config
        return sample_masked(
            scan, config.views, config.view_size, config.blocks, config.mask_ratio, rng, config.axes
        )

    def heads(self, backbone: Backbone) -> nn.Module:
        """Tokens and the map to intensities."""
        self.resolve_for_backbone(backbone)  # refuses blocks that this backbone sees through
        return MaeHeads(backbone, self._masking(backbone))

    def losses(self, batch: Batch, nets: Nets, generator: torch.Generator) -> Losses:
        """Rebuild the hidden blocks of one batch."""
        image, hidden, inside = every_view(batch)
        rebuilt, _ = self.rebuild(image, hidden, nets.student)
        loss = reconstruction(
            rebuilt, image, hidden, inside, self.config.blocks, self.config.normalise
        )
        return Losses({"reconstruction": loss})

    def rebuild(
        self, image: Tensor, hidden: Tensor, network: Network
    ) -> tuple[Tensor, list[Tensor]]:
        """Images ``(N, C, *view)`` as the network imagines them, and its features of them.

        Args:
            image: ``(N, C, *view)``.
            hidden: ``(N, *grid)`` boolean.
            network: Its heads are those of this method.
        """
        visible = (~to_voxels(hidden, image.shape[2:])).to(image.dtype)
        heads: MaeHeads = network.heads
        backbone, masking = network.backbone, self._masking(network.backbone)
        if masking == "input":
            (filled,) = heads.fill([image], visible)
            features = backbone.encode(filled)
            return heads.to_image(backbone.decode(features)), features
        if isinstance(backbone, TokenBackbone) and masking == "tokens":
            sizes = zip(image.shape[2:], backbone.divisor, strict=True)
            grid = torch.Size(size // patch for size, patch in sizes)
            features = backbone.encode_seen(image, at_size(visible, grid)[:, 0] > 0)
            complete = [heads.mixer(f) for f in heads.fill(features, visible)]
        else:
            with sparse_encoding(backbone.encoder, visible):
                features = backbone.encode(image * visible)
            complete = heads.fill(features, visible)
        return heads.to_image(backbone.decode(complete)), features

    def predict(self, batch: Batch, nets: Nets) -> Predicted:
        """The images as the student imagines them, and its coarsest features."""
        image, hidden, _ = every_view(batch)

        def forward(image: Tensor, hidden: Tensor) -> Predicted:
            rebuilt, features = self.rebuild(image, hidden, nets.student)
            return Predicted(rebuilt.float(), pooled(features))

        seen = few_at_a_time(forward, nets.student.backbone, image, hidden)
        views = batch["image"].shape[:2]
        return Predicted(*(each.unflatten(0, views) for each in seen))

    def _masking(self, backbone: Backbone) -> str:
        if self.config.masking != "auto":
            if self.config.masking == "tokens" and not isinstance(backbone, TokenBackbone):
                raise ConfigError(
                    "masking 'tokens' needs a transformer that can leave tokens out (primus, vit)"
                )
            return self.config.masking
        if isinstance(backbone, TokenBackbone):
            return "tokens"
        return "sparse" if is_convolutional(backbone.encoder) else "input"
