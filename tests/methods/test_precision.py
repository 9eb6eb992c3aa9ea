"""Under autocast the network may be rounded, but not what it is compared with or by."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiny import TinyBackbone, smooth_sources, stack
from torch import Tensor

from situs.methods.precision import cosines
from situs.methods.retrieval import retrieval
from situs.methods.s2dc import S2dc
from situs.methods.s2dc.config import S2dcConfig
from situs.methods.s2dc.losses import info_nce
from situs.methods.s2dc.tokens import correspondence
from situs.methods.simclr import nt_xent
from situs.methods.spatial import SpatialConfig
from situs.methods.spatial.heads import SpatialHeads
from situs.methods.voco.losses import predicted_overlap, regularization


def _near_vectors() -> tuple[Tensor, Tensor]:
    """Pairs whose cosines differ from 1 by less than bf16 can tell, ``(2, 5, 64)`` each."""
    g = torch.Generator().manual_seed(0)
    first = torch.randn(2, 5, 64, generator=g)
    return first, first + 0.02 * torch.randn(2, 5, 64, generator=g)


def _under_autocast(function: Callable[[], Tensor]) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return function()


@pytest.mark.parametrize(
    "function",
    [
        cosines,
        predicted_overlap,
        lambda a, b: regularization(a),
        lambda a, b: nt_xent(a[0], b[0], 0.1),
        lambda a, b: info_nce(a[0], b[0]),
        lambda a, b: retrieval(a[0], b[0], torch.eye(5, dtype=torch.bool))[0],
    ],
    ids=["cosines", "voco overlap", "voco bases", "nt_xent", "info_nce", "retrieval"],
)
def test_autocast_changes_no_comparison_and_no_gradient(function):
    a, b = (x.requires_grad_() for x in _near_vectors())
    plain, under = function(a, b), _under_autocast(lambda: function(a, b))
    assert under.dtype == torch.float32
    assert torch.equal(under, plain)
    gradients = [
        torch.autograd.grad(value.sum(), a, retain_graph=True)[0] for value in (plain, under)
    ]
    assert torch.equal(*gradients)


def test_cosines_keep_double_precision_and_widen_half():
    a, b = _near_vectors()
    expected = torch.nn.functional.cosine_similarity(a[:, :, None], b[:, None], dim=-1)
    torch.testing.assert_close(cosines(a, b), expected)
    assert cosines(a.double(), b.double()).dtype == torch.float64
    assert cosines(a.bfloat16(), b.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("head", ["difference", "pairwise"])
def test_autocast_does_not_round_positions_to_more_than_their_gaps(head):
    heads = SpatialHeads(6, 10, SpatialConfig(head=head))
    vectors = torch.randn(4, 3, 128, generator=torch.Generator().manual_seed(0))
    for predict in (heads.gaps, heads.steps):
        under = _under_autocast(lambda predict=predict: predict(vectors))
        assert torch.equal(under, predict(vectors))


def test_true_matches_of_s2dc_are_the_same_under_autocast():
    method = S2dc(S2dcConfig(grid=(2, 2, 2), crop_size=(16, 16, 16), stage=0))
    scans = smooth_sources(3, (40, 36, 40))
    batch = stack([method.sample(s, np.random.default_rng(i)) for i, s in enumerate(scans)])
    backbone = TinyBackbone()
    backbone.strides = ((4, 4, 4), (8, 8, 8))
    plain = correspondence(method.config, batch, backbone)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = correspondence(method.config, batch, backbone)
    assert plain.matches.any()
    assert torch.equal(under.matches, plain.matches)
    assert torch.equal(under.valid, plain.valid)
