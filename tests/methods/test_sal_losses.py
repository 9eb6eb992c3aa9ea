from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from situs.methods.sal import local_alignment, position_contrast, position_regression, spread
from situs.methods.sal import losses as sal_losses
from situs.methods.sal.losses import best_matches


def maps(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(shape, generator=generator, dtype=torch.float32, requires_grad=True),
        torch.randn(shape, generator=generator, dtype=torch.float32, requires_grad=True),
    )


def straightforward(x_i: torch.Tensor, x_j: torch.Tensor, window: int | None) -> torch.Tensor:
    """The whole matrix, one sample after another, with a mask of windows."""
    height, width = x_i.shape[2:]
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    w = window or max(height, width)
    part = (row // w * width + column // w).flatten()
    terms = []
    for i, j in zip(x_i, x_j, strict=True):
        unit_i, unit_j = (F.normalize(x, dim=0).flatten(1) for x in (i, j))
        a = (unit_i.T @ unit_j).masked_fill(part[:, None] != part, -torch.inf)
        terms += [(1 - a.max(1).values).abs().mean(), (1 - a.max(0).values).abs().mean()]
    return torch.stack(terms).mean()


@pytest.mark.parametrize("window", [None, 3, 4, 7, 100])
@pytest.mark.parametrize("block", [50, 2**22])
def test_equals_the_whole_matrix_with_gradients(
    window: int | None, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sal_losses, "_BLOCK", block)
    i, j = maps(3, 5, 8, 11)
    loss = local_alignment(i, j, window)
    expected = straightforward(i, j, window)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    got = torch.autograd.grad(loss, (i, j))
    want = torch.autograd.grad(expected, (i, j))
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("window", [8, 11, 12])
def test_one_window_over_the_map_is_the_full_loss(window: int) -> None:
    i, j = maps(2, 6, 8, 8, seed=1)
    full = local_alignment(i, j).item()
    assert local_alignment(i, j, window).item() == pytest.approx(full, abs=1e-7)


def test_identical_and_permuted_maps_match_perfectly() -> None:
    i, _ = maps(2, 16, 6, 6, seed=2)
    order = torch.randperm(36, generator=torch.Generator().manual_seed(0))
    moved = i.flatten(2)[:, :, order].view_as(i) * 3  # scale is normalised away
    assert local_alignment(i, moved).item() == pytest.approx(0, abs=1e-6)
    to_moved, back = best_matches(F.normalize(i, dim=1), F.normalize(moved, dim=1))
    assert (to_moved[:, order] == torch.arange(36)).all()
    assert (back == order).all()


def test_constant_features_are_a_trivial_optimum_that_spread_sees() -> None:
    constant = torch.ones(2, 8, 5, 5)
    assert local_alignment(constant, constant) == pytest.approx(0, abs=1e-6)
    assert spread(constant) == pytest.approx(1)
    orthogonal = torch.eye(25).view(1, 25, 5, 5)
    assert spread(orthogonal) == pytest.approx(0, abs=1e-6)


def test_spread_equals_the_formula_written_out() -> None:
    x, _ = maps(2, 6, 3, 4, seed=8)
    terms = []
    for sample in F.normalize(x.detach(), dim=1).flatten(2):
        u = sample.T
        pairs = [torch.exp(-2 * (u[p] - u[q]).square().sum())
                 for p in range(12) for q in range(12) if p != q]  # fmt: skip
        terms.append(1 + torch.stack(pairs).mean().log() / 4)
    assert spread(x).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)


def test_opposite_features_cost_two() -> None:
    x = torch.ones(1, 3, 4, 4)
    assert local_alignment(x, -x) == pytest.approx(2)


def contrast_by_loops(
    z: torch.Tensor, at: torch.Tensor, group: torch.Tensor, threshold: float, tau: float
) -> float:
    z = F.normalize(z, dim=1)
    terms = []
    for a in range(len(z)):
        others = [k for k in range(len(z)) if k != a]
        positives = [k for k in others if abs(at[a] - at[k]) < threshold and group[a] == group[k]]
        if positives:
            total = sum(torch.exp(z[a] @ z[k] / tau) for k in others)
            terms.append(
                -sum(torch.log(torch.exp(z[a] @ z[p] / tau) / total) for p in positives)
                / len(positives)
            )
    return float(sum(terms) / len(terms))


def test_contrast_equals_the_formula_written_out() -> None:
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(14, 6, generator=generator)
    at = torch.rand(14, generator=generator)
    group = torch.randint(0, 2, (14,), generator=generator)
    loss = position_contrast(z, at, group, threshold=0.2, temperature=0.3)
    assert loss == pytest.approx(contrast_by_loops(z, at, group, 0.2, 0.3), rel=1e-5)


def test_near_slices_of_a_scan_are_positives_whatever_their_places() -> None:
    z = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    at, group = torch.tensor([0.0, 0.5, 0.0, 1.0]), torch.zeros(4, dtype=torch.long)
    together = torch.zeros(4, 4, dtype=torch.bool)
    together[0, 1] = together[1, 0] = True
    near = torch.tensor([0.0, 0.05, 0.0, 1.0])  # the same positives by place: 0, 1 and 2
    pulled = position_contrast(z, at, group, 0.1, 0.3, together | (near[:, None] == near))
    assert pulled == position_contrast(z, at, group, 0.1, 0.3, together)  # 0 and 2 are near anyway
    by_hand = []
    logits = F.normalize(z, dim=1) @ F.normalize(z, dim=1).T / 0.3
    logits.fill_diagonal_(-torch.inf)
    for a, positives in ((0, [1, 2]), (1, [0]), (2, [0])):
        by_hand.append(-logits[a].log_softmax(0)[positives].mean())
    torch.testing.assert_close(pulled, torch.stack(by_hand).mean())


def test_hard_negatives_of_other_scans_count_more() -> None:
    """Held to the formula written out, its gradient to autograd's with the counts held still."""
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(12, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    at = torch.rand(12, generator=generator)
    group = torch.zeros(12, dtype=torch.long)
    scan = torch.arange(12) // 4
    kin = scan[:, None] == scan
    beta, tau = 3.0, 0.3
    cosine = F.normalize(z, dim=1) @ F.normalize(z, dim=1).T
    terms = []
    for a in range(12):
        others = [k for k in range(12) if k != a]
        positives = [k for k in others if abs(at[a] - at[k]) < 0.2]
        hard = [k for k in others if k not in positives and scan[k] != scan[a]]
        alike = torch.exp(beta * cosine[a].detach())
        count = {k: alike[k] / alike[hard].mean() for k in hard}
        total = sum(count.get(k, 1.0) * torch.exp(cosine[a, k] / tau) for k in others)
        if positives:
            terms.append(-(torch.log(torch.exp(cosine[a, positives] / tau) / total)).mean())
    wanted = torch.stack(terms).mean()
    (slope,) = torch.autograd.grad(wanted, z)
    loss = position_contrast(z, at, group, 0.2, tau, hardness=beta, kin=kin)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], slope)
    assert loss > position_contrast(z, at, group, 0.2, tau)


def test_contrast_without_positives_is_zero_with_a_gradient() -> None:
    z = torch.randn(3, 4, requires_grad=True)
    loss = position_contrast(z, torch.tensor([0.0, 0.5, 1.0]), torch.zeros(3, dtype=torch.long))
    loss.backward()
    assert loss == 0
    assert (z.grad == 0).all()


def test_contrast_prefers_neighbours_together() -> None:
    at = torch.tensor([0.1, 0.12, 0.8, 0.83])
    group = torch.zeros(4, dtype=torch.long)
    together = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])
    apart = together[[0, 2, 1, 3]]
    assert position_contrast(together, at, group) < position_contrast(apart, at, group)


def test_regression_reads_the_place_of_the_right_direction() -> None:
    predicted = torch.tensor([[0.1, 0.9, 0.5], [0.2, 0.3, 0.4]])
    exact = position_regression(predicted, torch.tensor([0.9, 0.2]), torch.tensor([1, 0]))
    assert exact == 0
    assert position_regression(predicted, torch.tensor([0.9, 0.2]), torch.tensor([0, 0])) > 0


def test_double_precision_is_kept_and_gradients_are_right() -> None:
    i, j = (x.detach().double().requires_grad_() for x in maps(1, 3, 4, 4, seed=5))
    assert local_alignment(i, j).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda a, b: local_alignment(a, b, 2), (i, j))
    at = torch.linspace(0, 1, 6, dtype=torch.float64)
    z = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    group = torch.zeros(6, dtype=torch.long)
    assert torch.autograd.gradcheck(lambda z: position_contrast(z, at, group, 0.3, 0.5), (z,))


def test_autocast_changes_nothing() -> None:
    i, j = maps(1, 8, 6, 6, seed=6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = local_alignment(i, j)
    assert inside.item() == pytest.approx(local_alignment(i, j).item(), abs=1e-6)
