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
from situs.methods.mae.views import fitted_block, sample_masked, to_voxels
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
        """One masked sub-volume; see :func:`~situs.methods.mae.views.sample_masked`."""
        config = self.config
        return sample_masked(
            scan, config.view_size, config.blocks, config.mask_ratio, rng, config.axes
        )

    def heads(self, backbone: Backbone) -> nn.Module:
        """Tokens and the map to intensities."""
        self.resolve_for_backbone(backbone)  # refuses blocks that this backbone sees through
        return MaeHeads(backbone, self._masking(backbone))

    def losses(self, batch: Batch, nets: Nets, generator: torch.Generator) -> Losses:
        """Rebuild the hidden blocks of one batch."""
        loss = reconstruction(
            self.rebuild(batch, nets.student)[0],
            batch["image"],
            batch["hidden"],
            batch["inside"],
            self.config.blocks,
            self.config.normalise,
        )
        return Losses({"reconstruction": loss})

    def rebuild(self, batch: Batch, network: Network) -> tuple[Tensor, list[Tensor]]:
        """The image as the network imagines it, ``(B, C, *spatial)``, and its features."""
        image = batch["image"]
        visible = (~to_voxels(batch["hidden"], image.shape[2:])).to(image.dtype)
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
        """The image as the student imagines it, and its coarsest features."""

        def forward(image: Tensor, hidden: Tensor) -> Predicted:
            rebuilt, features = self.rebuild({"image": image, "hidden": hidden}, nets.student)
            return Predicted(rebuilt.float(), pooled(features))

        return few_at_a_time(forward, nets.student.backbone, batch["image"], batch["hidden"])

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
