from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from situs.methods.s2dc import discrepancy, log_sinkhorn
from situs.methods.s2dc import sinkhorn as inner

torch.set_num_threads(1)


def random_scores(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.double) * scale


def straightforward(scores: Tensor, dustbin: Tensor, iterations: int) -> Tensor:
    """One sample at a time, probabilities of total mass 1, as the SuperGlue paper describes it."""
    plans = []
    for sample in scores:
        m, n = sample.shape
        z = torch.empty(m + 1, n + 1, dtype=scores.dtype)
        z[:m, :n] = sample
        z[m, :] = z[:, n] = dustbin
        rows = torch.tensor([1.0] * m + [float(n)], dtype=scores.dtype) / (m + n)
        columns = torch.tensor([1.0] * n + [float(m)], dtype=scores.dtype) / (m + n)
        p = z.exp()
        for _ in range(iterations):
            p = p * (rows / p.sum(1))[:, None]
            p = p * (columns / p.sum(0))
        plans.append(p * (m + n))
    return torch.stack(plans)


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize(("m", "n"), [(5, 5), (4, 7), (7, 4), (1, 1), (1, 6)])
def test_values_and_gradients_equal_a_straightforward_loop(m: int, n: int, unroll: bool) -> None:
    scores = random_scores((3, m, n), seed=m * 10 + n).requires_grad_()
    dustbin = torch.tensor(0.4, dtype=torch.double, requires_grad=True)
    weight = random_scores((3, m + 1, n + 1), seed=1)

    log_plan = log_sinkhorn(scores, dustbin, iterations=200, unroll=unroll)
    expected = straightforward(scores, dustbin, 200)
    torch.testing.assert_close(log_plan.exp(), expected, atol=1e-9, rtol=0)

    # The loss looks at P and at log P, so that wrong duals could not hide.
    got = torch.autograd.grad((weight * (log_plan + log_plan.exp())).sum(), (scores, dustbin))
    want = torch.autograd.grad((weight * (expected.log() + expected)).sum(), (scores, dustbin))
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, atol=1e-8, rtol=1e-6)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**16), st.floats(0.1, 3))
def test_gradcheck(m: int, n: int, seed: int, scale: float) -> None:
    scores = random_scores((2, m, n), seed, scale).requires_grad_()
    dustbin = torch.tensor([0.3, -0.8], dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda s, d: log_sinkhorn(s, d, iterations=5000, tolerance=1e-13), (scores, dustbin)
    )


def test_gradient_survives_where_detached_duals_fail() -> None:
    scores = random_scores((2, 8, 8), seed=3, scale=3).requires_grad_()
    dustbin = torch.tensor(0.5, dtype=torch.double, requires_grad=True)
    matches = torch.eye(8, dtype=torch.bool).expand(2, 8, 8)

    def gradients(**options: object) -> tuple[Tensor, ...]:
        plan = log_sinkhorn(scores, dustbin, iterations=3000, **options)  # type: ignore[arg-type]
        return torch.autograd.grad(discrepancy(plan, matches), (scores, dustbin))

    for implicit, unrolled in zip(gradients(), gradients(unroll=True), strict=True):
        torch.testing.assert_close(implicit, unrolled, rtol=1e-6, atol=1e-9)
        assert unrolled.abs().max() > 1e-3


def test_marginals() -> None:
    scores = random_scores((4, 9, 6), seed=0, scale=2).float()
    plan = log_sinkhorn(scores, 1.0, iterations=500, tolerance=1e-7).exp()
    ones = torch.ones(())
    torch.testing.assert_close(plan[:, :-1].sum(2), ones.expand(4, 9), atol=1e-5, rtol=0)
    torch.testing.assert_close(plan[:, :, :-1].sum(1), ones.expand(4, 6), atol=1e-5, rtol=0)
    torch.testing.assert_close(plan[:, -1].sum(1), 6 * ones.expand(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(plan[:, :, -1].sum(1), 9 * ones.expand(4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("unroll", [False, True])  # the kernel domain and the log domain
def test_equals_pot_on_the_balanced_problem(unroll: bool) -> None:
    m, n = 7, 5
    scores = random_scores((1, m, n), seed=5, scale=3)
    z = np.full((m + 1, n + 1), 0.7)
    z[:m, :n] = scores[0]
    rows = np.r_[np.ones(m), n]
    columns = np.r_[np.ones(n), m]
    expected = ot.sinkhorn(
        rows, columns, -z, reg=1.0, method="sinkhorn_log", numItermax=5000, stopThr=1e-12
    )
    plan = log_sinkhorn(scores, 0.7, iterations=5000, tolerance=1e-12, unroll=unroll)[0].exp()
    np.testing.assert_allclose(plan.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 40.0, 1000.0])
@pytest.mark.parametrize("iterations", [1, 7, 130])
def test_both_domains_do_the_same_iterations(scale: float, iterations: int) -> None:
    scores = random_scores((2, 20, 15), seed=6, scale=scale).float()
    kernel = log_sinkhorn(scores, 1.0, iterations)
    logarithmic = log_sinkhorn(scores, 1.0, iterations, unroll=True)
    torch.testing.assert_close(kernel, logarithmic, atol=2e-5 * max(1.0, scale), rtol=1e-4)


def test_tolerance_stops_early_without_changing_the_gradient() -> None:
    tokens = torch.nn.functional.normalize(random_scores((2, 40, 64), seed=7).float(), dim=-1)
    scores = (tokens @ tokens.mT).requires_grad_()
    matches = torch.eye(40, dtype=torch.bool).expand(2, 40, 40)

    def gradient(tolerance: float | None) -> Tensor:
        plan = log_sinkhorn(scores, torch.ones(()), 100, tolerance)
        return torch.autograd.grad(discrepancy(plan, matches), scores)[0]

    full, stopped = gradient(None), gradient(1e-4)
    assert (full - stopped).norm() < 1e-5 * full.norm()


def test_forbidden_tokens_leave_the_rest_as_if_absent() -> None:
    scores = random_scores((2, 6, 5), seed=8)
    inside = scores[:, 1:, :4]
    masked = torch.full_like(scores, -torch.inf)
    masked[:, 1:, :4] = inside
    for unroll in (False, True):  # the kernel domain and the log domain
        got = log_sinkhorn(masked, 0.5, iterations=500, unroll=unroll)
        want = log_sinkhorn(inside, 0.5, iterations=500)
        torch.testing.assert_close(got[:, 1:-1, :4], want[:, :-1, :-1])
        assert bool((got[:, 0, :-1].exp() == 0).all())


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("size", [1, 2, 17])
@pytest.mark.parametrize("kind", ["all", "none", "random", "permutation"])
def test_no_nan_at_extremes(scale: float, size: int, kind: str) -> None:
    matches = torch.eye(size, dtype=torch.bool).expand(2, size, size)
    scores = {
        "all": torch.ones(2, size, size),
        "none": -torch.ones(2, size, size),
        "random": random_scores((2, size, size), seed=9).float(),
        "permutation": 2 * torch.eye(size).expand(2, size, size) - 1,
    }[kind]
    scores = (scores * scale).requires_grad_()
    dustbin = torch.ones((), requires_grad=True)
    for truth in (matches, ~matches, torch.ones_like(matches), torch.zeros_like(matches)):
        loss = discrepancy(log_sinkhorn(scores, dustbin), truth)
        gradients = torch.autograd.grad(loss, (scores, dustbin))
        assert bool(loss.isfinite()), (scale, size, kind)
        assert all(bool(g.isfinite().all()) for g in gradients), (scale, size, kind)


def test_single_precision_inside_autocast() -> None:
    tokens = torch.nn.functional.normalize(random_scores((2, 12, 16), seed=10).float(), dim=-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = tokens @ tokens.mT
        plan = log_sinkhorn(scores, torch.ones(()))
    assert scores.dtype == torch.bfloat16
    assert plan.dtype == torch.float32
    torch.testing.assert_close(plan, log_sinkhorn(scores.float(), 1.0))


def test_leading_dimensions_and_dustbin_per_sample() -> None:
    scores = random_scores((2, 3, 4, 5), seed=11)
    bins = random_scores((2, 3), seed=12)
    together = log_sinkhorn(scores, bins)
    for i in range(2):
        for j in range(3):
            alone = log_sinkhorn(scores[i, j], bins[i, j])
            torch.testing.assert_close(together[i, j], alone)


def test_refuses_what_cannot_be_transported() -> None:
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        log_sinkhorn(torch.zeros(1, 2, 2), 1.0, iterations=0)
    with pytest.raises(ValueError, match="rows and columns"):
        log_sinkhorn(torch.zeros(1, 0, 2), 1.0)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 40.0])
def test_iterating_without_a_look_at_the_device_ends_at_the_same_plan(scale: float) -> None:
    couplings = inner._couplings(random_scores((3, 7, 5), seed=3, scale=scale), torch.zeros(3))
    couplings = couplings.float()
    couplings[1] *= 0.1  # a sample that needs no log domain beside ones that do
    u, v = -couplings.amax(2), couplings.new_zeros(3, 6)
    u, v = inner._unasked(couplings, u, v, 2000)
    asked = inner._potentials(couplings, 2000, None)
    plans = [(couplings + a[:, :, None] + b[:, None, :]).exp() for a, b in ((u, v), asked)]
    torch.testing.assert_close(plans[0].sum(1)[:, :-1], torch.ones(3, 5), atol=1e-4, rtol=0)
    torch.testing.assert_close(*plans, atol=2e-4, rtol=0)
