"""What one look at held-out regions measures, before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from situs.geometry import map_tokens, token_centres
from situs.methods.base import Batch, Network
from situs.methods.s2dc.config import NORMAL_AXIS, S2dcConfig
from situs.methods.s2dc.heads import heads_of
from situs.methods.s2dc.sinkhorn import log_sinkhorn
from situs.methods.s2dc.tokens import (
    Encoded,
    Problem,
    correspondence,
    encode_region,
    token_grid,
    token_vox,
)
from situs.methods.s2dc.views import token_geometry
from situs.observation import Score


@dataclass(frozen=True)
class Look:
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
        predicted: Centre of the most similar token, in the same coordinates.
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
    predicted: Tensor

    @property
    def centres(self) -> Tensor:
        """Centres of the tokens, ``(N, 3)`` about the grid's centre."""
        return token_centres(self.grid, self.token_mm)

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

    def accuracy(self) -> Score:
        """Share of matched tokens found at first choice."""
        others = self.problem.valid.sum(-1).clamp(min=1)
        return self.score(
            "match_accuracy",
            100 * self.right.float(),
            "%",
            "matches found, first choice",
            chance=100 / others,
        )

    def error(self) -> Score:
        """Distance of the first choice from the true place.

        Chance is any token of the moved copy, constant always its centre.
        """
        scale = self.token_mm[:, None]
        everywhere = torch.cdist(self.true * scale, self.centres * scale)
        return self.score(
            "match_error",
            ((self.predicted - self.true) * scale).norm(dim=-1),
            "mm",
            "distance from the true place",
            chance=masked_mean(everywhere, self.problem.valid),
            constant=(self.true * scale).norm(dim=-1),
        )

    def standing_still(self) -> tuple[float, float]:
        """Share in % and error in mm of saying that nothing moved, over all matched tokens.

        The network cannot say so, as it sees one crop at a time; how well it would do tells how
        much the motion asks for.
        """
        same = self.problem.matches.diagonal(dim1=1, dim2=2)[self.matched].float().mean()
        moved = ((self.centres - self.true) * self.token_mm[:, None]).norm(dim=-1)
        return 100 * float(same), float(moved[self.matched].mean())

    def score(
        self,
        name: str,
        values: Tensor,
        unit: str,
        label: str,
        chance: Tensor | None = None,
        constant: Tensor | None = None,
    ) -> Score:
        """A score from ``values (B, N)``: over each sample's matched tokens, then over samples.

        Samples without a match (padding only) do not count.
        """
        some = self.matched.any(-1)
        samples = torch.where(some, masked_mean(values, self.matched), torch.nan)

        def overall(per_token: Tensor | None) -> float | None:
            if per_token is None:
                return None
            return float(masked_mean(per_token, self.matched)[some].mean())

        return Score(
            name=name,
            value=float(samples[some].mean()),
            unit=unit,
            better="lower" if unit == "mm" else "higher",
            chance=overall(chance),
            constant=overall(constant),
            label=label,
            samples=tuple(samples.tolist()),
        )

    def log_plan(self, samples: int, student: Network) -> Tensor:
        """Transport plan of the first ``samples``, ``(samples, N + 1, N + 1)``."""
        scores = torch.where(
            self.problem.valid, self.similarity / self.config.temperature, -torch.inf
        )
        bins = heads_of(student.heads).dustbin
        return log_sinkhorn(scores[:samples], bins, self.config.iterations, self.config.tolerance)

    def to_vox(self, tokens: Tensor) -> npt.NDArray[np.float64]:
        """Token coordinates about the grid's centre as voxels of the region."""
        size = tokens.new_tensor(self.size)
        middle = (tokens.new_tensor(self.config.region_size) - 1) / 2
        return to_numpy(tokens * size + middle)


def look(config: S2dcConfig, batch: Batch, student: Network) -> Look:
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
    return Look(
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
        predicted=centres[nearest],
    )


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last axis where ``mask``; 0 where it is empty."""
    return torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)


def to_numpy(tensor: Tensor) -> npt.NDArray[np.float64]:
    """On the CPU, in double precision."""
    return tensor.detach().cpu().double().numpy()
