from __future__ import annotations

import pytest
import torch

from situs.methods.monitors import collapse_warnings, effective_rank, feature_variance


def test_constant_features_have_no_variance_and_rank_one() -> None:
    features = torch.ones(50, 8) * torch.linspace(1, 2, 50)[:, None]
    assert feature_variance(features) == pytest.approx(0, abs=1e-5)
    assert effective_rank(features) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("directions", [1, 3, 8])
def test_rank_counts_equal_orthogonal_directions(directions: int) -> None:
    q, _ = torch.linalg.qr(torch.randn(64, directions, generator=torch.Generator().manual_seed(0)))
    q = q - q.mean(0)  # centring is part of the measure, so start centred
    u, _, v = torch.linalg.svd(q, full_matrices=False)
    assert effective_rank(u @ v) == pytest.approx(directions, rel=1e-3)


def test_rank_and_variance_ignore_scale() -> None:
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    assert effective_rank(x * 1000) == pytest.approx(effective_rank(x).item(), rel=1e-4)
    assert feature_variance(x * 1000) == pytest.approx(feature_variance(x).item(), rel=1e-4)


def test_warnings_name_the_number_and_the_remedy() -> None:
    assert collapse_warnings(0.5, 12, "do this") == ()
    assert "0.001" in collapse_warnings(0.001, 1, "do this")[0]
    assert collapse_warnings(0.5, 1.2, "do this")[0].endswith("do this")
