"""How tokens of held-out regions are matched, and what is measured of it, before anything is drawn.

Matches are those of arXiv 2507.02581; what is measured of them, in mm and beside chance, is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from situs.geometry import map_tokens, token_centres
from situs.methods.base import Batch, Network
from situs.methods.measured import Measured
from situs.methods.projection import pooled
from situs.methods.s2dc.config import NORMAL_AXIS, S2dcConfig
from situs.methods.s2dc.losses import masked_mean, sharpness
from situs.methods.s2dc.sinkhorn import log_sinkhorn
from situs.methods.s2dc.tokens import (
    Encoded,
    Problem,
    correspondence,
    encode_crops,
    encode_region,
    token_grid,
    token_vox,
)
from situs.methods.s2dc.views import token_geometry
from situs.tensors import to_numpy

PLANS = 3
"""Samples whose transport plan is looked at."""


@dataclass(frozen=True)
class Matching:
    """Where each source token is, and where the network puts it, in the moved copy.

    Attributes:
        config: The method's configuration.
        grid: Tokens of the region along each axis; N in all.
        size: Voxels of a token along each axis.
        token_mm: ``(B, 3)`` extent of a token.
        near: The region's features.
        far: The moved copy's.
        problem: True matches and pairs that count, ``(B, N, N)``.
        similarity: Cosines, ``(B, N, N)``.
        nearest: Most similar moved token of each source token, ``(B, N)``.
        true: Where each source token's centre is in the moved copy, ``(B, N, 3)`` tokens about
            the grid's centre.
        dustbin: Its score.
        crops: Cosines of crops and augmented copies, ``(B·G, B·G)``; None where there are none.
    """

    config: S2dcConfig
    grid: tuple[int, int, int]
    size: tuple[int, int, int]
    token_mm: Tensor
    near: Encoded
    far: Encoded
    problem: Problem
    similarity: Tensor
    nearest: Tensor
    true: Tensor
    dustbin: Tensor
    crops: Tensor | None

    @property
    def centres(self) -> Tensor:
        """Centres of the tokens, ``(N, 3)`` about the grid's centre."""
        return token_centres(self.grid, self.token_mm)

    @property
    def predicted(self) -> Tensor:
        """Centre of the most similar token, in the coordinates of ``true``."""
        return self.centres[self.nearest]

    @property
    def matched(self) -> Tensor:
        """Whether a source token has a true match, ``(B, N)``."""
        return self.problem.matches.any(-1)

    @property
    def right(self) -> Tensor:
        """Whether the most similar moved token is the true one, ``(B, N)``."""
        return self.problem.matches.gather(-1, self.nearest[..., None])[..., 0]

    @property
    def inside(self) -> Tensor:
        """Whether a source token looks at the scan rather than at padding, ``(B, N)``."""
        return self.problem.valid.any(-1)

    def measure(self) -> list[Measured]:
        """Matches found at first choice, how far off it is, how clear, and crops recognised.

        Chance is any token of the moved copy; constant, of the distance, always its centre.
        """
        scale = self.token_mm[:, None]
        everywhere = torch.cdist(self.true * scale, self.centres * scale)
        others = self.problem.valid.sum(-1).clamp(min=1)
        found = [
            Measured(
                "match_accuracy",
                self.over_matched(100 * self.right.float()),
                "%",
                "higher",
                "matches found, first choice",
                chance=self.mean(100 / others),
            ),
            Measured(
                "match_error",
                self.over_matched(((self.predicted - self.true) * scale).norm(dim=-1)),
                "mm",
                "lower",
                "distance from the true place",
                chance=self.mean(masked_mean(everywhere, self.problem.valid, (-1,))),
                constant=self.mean((self.true * scale).norm(dim=-1)),
            ),
            Measured(
                "sharpness",
                self.over_matched(self.sharpness),
                "σ",
                "higher",
                "how far the best match stands out",
            ),
        ]
        if self.crops is not None:
            itself = torch.arange(len(self.crops), device=self.crops.device)
            right = 100 * (self.crops.argmax(1) == itself).float()
            found.append(
                Measured(
                    "crop_accuracy",
                    right.reshape(len(self.nearest), -1),
                    "%",
                    "higher",
                    "own copy is the most similar",
                    chance=100 / len(itself),
                )
            )
        return found

    def standing_still(self) -> tuple[float, float]:
        """Share in % and error in mm of saying that nothing moved, over all matched tokens.

        The network cannot say so, as it sees one crop at a time; how well it would do tells how
        much the motion asks for.
        """
        same = self.problem.matches.diagonal(dim1=1, dim2=2)[self.matched].float().mean()
        moved = ((self.centres - self.true) * self.token_mm[:, None]).norm(dim=-1)
        return 100 * float(same), float(moved[self.matched].mean())

    def over_matched(self, values: Tensor) -> Tensor:
        """Mean of ``values (B, N)`` over each sample's matched tokens; NaN where there are none."""
        return torch.where(
            self.matched.any(-1), masked_mean(values, self.matched, (-1,)), torch.nan
        )

    def mean(self, values: Tensor) -> float:
        """Of :meth:`over_matched`, over samples that have a match."""
        return float(self.over_matched(values).nanmean())

    @cached_property
    def sharpness(self) -> Tensor:
        """How far each source token's best match stands out, ``(B, N)``."""
        return sharpness(self.similarity, self.problem.valid)

    @cached_property
    def plan(self) -> Tensor:
        """Transport plan of the first samples, ``(PLANS, N + 1, N + 1)``, not logarithmic."""
        scores = torch.where(
            self.problem.valid, self.similarity / self.config.temperature, -torch.inf
        )[:PLANS]
        found = log_sinkhorn(scores, self.dustbin, self.config.iterations, self.config.tolerance)
        return found.exp()

    def to_vox(self, tokens: Tensor) -> npt.NDArray[np.float64]:
        """Token coordinates about the grid's centre as voxels of the region."""
        size = tokens.new_tensor(self.size)
        middle = (tokens.new_tensor(self.config.region_size) - 1) / 2
        return to_numpy(tokens * size + middle)


def matching_of(config: S2dcConfig, batch: Batch, student: Network) -> Matching:
    """Encode both sides of held-out regions with the student, and match by similarity alone."""
    grid, size = token_grid(config, student.backbone), token_vox(config, student.backbone)
    near = encode_region(config, batch["source"], student)
    far = encode_region(config, batch["moved"], student)
    problem = correspondence(config, batch, student.backbone)
    affine, _, _ = token_geometry(batch, size, grid)
    centres = token_centres(grid, affine)
    if config.per_slice:
        place = centres[:, NORMAL_AXIS[config.motion.plane]]
        same = place[:, None] == place
        problem = Problem(problem.matches & same, problem.valid & same)
    similarity = near.tokens @ far.tokens.mT
    nearest = torch.where(problem.valid, similarity, -torch.inf).argmax(-1)
    return Matching(
        config=config,
        grid=grid,
        size=size,
        token_mm=batch["spacing_mm"] * batch["spacing_mm"].new_tensor(size),
        near=near,
        far=far,
        problem=problem,
        similarity=similarity,
        nearest=nearest,
        true=map_tokens(affine, grid),
        dustbin=student.heads.dustbin,
        crops=_crops(batch, near, student) if "augmented" in batch else None,
    )


def _crops(batch: Batch, near: Encoded, student: Network) -> Tensor:
    heads, chosen = student.heads, batch["augmented_crop"]
    picked = near.crops.gather(1, chosen[..., None].expand(-1, -1, near.crops.shape[-1]))
    copies = pooled(encode_crops(batch["augmented"].flatten(0, 1), student.backbone))
    similarity: Tensor = heads.crops(picked.flatten(0, 1)) @ heads.crops(copies).mT
    return similarity
