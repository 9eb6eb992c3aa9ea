"""What ``mae`` shows: the scan, what was hidden, what the network made of it.

What is hidden is shown as in arXiv 2111.06377; R² of the structure inside blocks is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from situs.methods.base import Batch, Method, Nets, Samples, Scores
from situs.methods.mae.config import MaeConfig
from situs.methods.mae.losses import block_statistics, denormalise, from_blocks, to_blocks
from situs.methods.mae.views import every_view, to_voxels
from situs.methods.measured import Measured
from situs.observation import ImagesPanel, OverlayPanel, Panel, Section, Volume
from situs.text import times
from situs.views.source import Source
from situs.views.subvolume import crop_affine

_SHOWN = 2


class Predicted(NamedTuple):
    """What was rebuilt of each view, in units of the (normalised) target, and features.

    Attributes:
        rebuilt: ``(B, V, C, *view)``.
        features: ``(B, V, D)``.
    """

    rebuilt: Tensor
    features: Tensor


class Rebuilt(NamedTuple):
    """Views and what was made of them, in intensities.

    Attributes:
        image: ``(B, V, C, *view)``.
        guess: The same as rebuilt.
        flat: The same with every block painted with its mean.
        hidden: ``(B, V, 1, *view)`` boolean, the hidden voxels inside the scan.
    """

    image: Tensor
    guess: Tensor
    flat: Tensor
    hidden: Tensor


class ObservedMae(Method):
    """What is asked of ``mae`` on held-out samples."""

    monitor = "reconstruction_r2"
    config: MaeConfig

    def measure(self, samples: Samples, predicted: Predicted) -> list[Measured]:
        """Structure explained, and the error, beside blocks painted flat with their true mean."""
        image, guess, flat, hidden = self._beside(samples.batch, predicted)
        error, spread = _per_sample(guess - image, hidden), _per_sample(flat - image, hidden)
        return [
            Measured(
                "reconstruction_r2",
                1 - error / spread.clamp_min(1e-12),
                "",
                "higher",
                "structure inside hidden blocks explained (R²)",
                chance=0.0,
                constant=0.0,
            ),
            Measured(
                "reconstruction_rmse",
                error.sqrt(),
                "",
                "lower",
                "error on hidden voxels, in units of the normalised intensity",
                constant=spread.sqrt().mean(),
            ),
        ]

    def features(self, predicted: Predicted) -> Tensor:
        """Pooled features of all views, ``(B · V, D)``."""
        return predicted.features.flatten(0, 1)

    def sections(
        self, samples: Samples, predicted: Predicted, nets: Nets, scores: Scores
    ) -> list[Section]:
        """Hidden, rebuilt and true of a few samples."""
        config, beside = self.config, self._beside(samples.batch, predicted)
        explanation = (
            f"{config.mask_ratio:.0%} of the blocks of {times(config.blocks)} voxels are "
            "hidden; the network rebuilds them from what is left. The constant baseline knows "
            "each hidden block's mean and paints it flat."
        )
        panels = tuple(
            panel
            for b, source in enumerate(samples.scans[:_SHOWN])
            for panel in _panels(b, beside, samples.batch, source)
        )
        return [Section("Rebuilding hidden blocks", explanation, panels=panels)]

    def _beside(self, batch: Batch, predicted: Predicted) -> Rebuilt:
        """Prediction and truth in the scan's own intensities."""
        (image, hidden, inside), block = every_view(batch), self.config.blocks
        image, size = image.float(), image.shape[2:]
        guess = predicted.rebuilt.flatten(0, 1)
        if self.config.normalise:
            guess = denormalise(guess, image, inside, block)
        blocks = to_blocks(image, block)
        mean, _ = block_statistics(blocks, to_blocks(inside[:, None], block))
        flat = from_blocks(mean.expand_as(blocks), block, size)
        seen = (image, guess, flat, to_voxels(hidden, size) & inside[:, None])
        return Rebuilt(*(each.unflatten(0, batch["image"].shape[:2]) for each in seen))


def _panels(b: int, beside: Rebuilt, batch: Batch, source: Source) -> tuple[Panel, Panel]:
    """Of the first view of a sample, and its first channel."""
    affine = crop_affine(source.affine, batch["start"][b, 0].tolist())
    # A slice is a volume one voxel thick.
    extent = batch["extent"][b, 0].tolist()
    true, guess, _, shut = (tensor[b, 0, 0].reshape(extent) for tensor in beside)
    pasted = torch.where(shut, guess, true)
    masked = torch.where(shut, true.min(), true)
    volumes = tuple(
        Volume(v.cpu().numpy(), affine, name)
        for v, name in ((masked, "what the network sees"), (pasted, "rebuilt"), (true, "true"))
    )
    error = torch.where(shut, (guess - true).abs(), 0)
    return (
        ImagesPanel(
            title="Hidden, rebuilt, true",
            caption=(
                "Hidden blocks are black on the left. Rebuilt blocks take their mean and "
                "contrast from the truth; the structure inside them is the network's."
            ),
            volumes=volumes,
            names=tuple(v.name for v in volumes),
        ),
        OverlayPanel(
            title="Where rebuilding fails",
            caption="Absolute error on hidden voxels, over the scan.",
            volume=volumes[2],
            overlay=error.cpu().numpy(),
        ),
    )


def _per_sample(difference: Tensor, where: Tensor) -> Tensor:
    """Mean square over the voxels ``where`` of all views, one value a sample."""
    weight = where.expand_as(difference).flatten(1)
    return (difference.flatten(1).square() * weight).sum(1) / weight.sum(1).clamp_min(1)
