"""What every trainer shares."""

from __future__ import annotations

import copy

import pytest
import torch

from situs.backbones import BackboneConfig, build
from situs.training.engine import quick_layout


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU keeps the usual layout")
def test_the_quick_layout_changes_where_weights_lie_and_nothing_else():
    torch.manual_seed(0)
    usual = build(BackboneConfig(name="cnn", options={"channels": [4, 8]}))
    quick = copy.deepcopy(usual)
    held = [id(p) for p in quick.parameters()]
    quick_layout(quick)
    assert [id(p) for p in quick.parameters()] == held  # an optimiser made before still works
    weights = [m.weight for m in quick.modules() if isinstance(m, torch.nn.Conv3d)]
    assert all(w.is_contiguous(memory_format=torch.channels_last_3d) for w in weights)

    image = torch.randn(2, 1, 16, 16, 16)
    for backbone in (usual, quick):
        backbone(image).square().mean().backward()
    for (name, a), b in zip(usual.named_parameters(), quick.parameters(), strict=True):
        assert torch.equal(a, b), name
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)
