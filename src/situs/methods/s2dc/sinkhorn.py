"""Optimal transport with a dustbin, batched, with exact implicit gradients.

The plan is ``P = exp(Z + u + v)`` for the couplings ``Z``, the scores bordered by a learnable
dustbin; the potentials ``u, v`` make rows and columns sum to their marginals. Scaling and
dustbin follow SuperGlue (arXiv 1911.11763, section 3.2).

The gradient does not run through the iterations. At the fixed point

    diag(a) du + P dv  = −(P ∘ dZ) 1
    Pᵀ du + diag(b) dv = −(P ∘ dZ)ᵀ 1

so that, with ``G`` the gradient with respect to log P, the gradient with respect to Z is
``G − P ∘ (λ 1ᵀ + 1 μᵀ)``, where (λ, μ) solves the same symmetric system with right-hand side
(G 1, Gᵀ 1). One Schur complement a sample solves it (Luise et al., NeurIPS 2018; Eisenberger et
al., CVPR 2022). Detaching u and v instead would be wrong wherever a loss looks at the plan's
entries, and would give the dustbin no gradient.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from situs.methods.precision import at_least_single

_LOG_BLOCK, _KERNEL_BLOCK = 10, 50  # iterations before the kernel is formed anew
_LOG_TURN, _KERNEL_TURN = 5, 20  # likewise, where nobody looks whether it still holds


def log_sinkhorn(
    scores: Tensor,
    dustbin: Tensor | float,
    iterations: int = 100,
    tolerance: float | None = None,
    *,
    unroll: bool = False,
) -> Tensor:
    """Transport plan between two sets of tokens, either of which may stay unmatched.

    Each inner row and each inner column of P sums to 1 together with its dustbin entry; the
    dustbin row sums to N, the dustbin column to M. Columns hold exactly, rows up to convergence.

    Computed in float32 at least, inside autocast too. The gradient is that of the converged
    plan. Where the iterations ended early (sharp scores, low cap), it is the gradient of the
    problem whose row marginals are those that were reached.

    Args:
        scores: ``(B, M, N)``, any leading dimensions. ``−inf`` forbids a pair, and a whole row
            or column of ``−inf`` leaves the others, once converged, as if that token were absent.
        dustbin: Score of staying unmatched; a scalar, or one a sample.
        iterations: Cap on the number of iterations.
        tolerance: Stop as soon as no ``u`` changes by more than this; None runs all iterations.
            Accelerators run all, too: the host would have to wait for them to know.
        unroll: Differentiate through the iterations instead: slow, large, and for reference.

    Returns:
        Log plan ``(B, M+1, N+1)``, the dustbin last.

    Raises:
        ValueError: If ``iterations`` is below 1 or ``scores`` has no rows or columns.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    *lead, m, n = scores.shape
    if m < 1 or n < 1:
        raise ValueError(f"scores must have rows and columns, got shape {tuple(scores.shape)}")
    with torch.autocast(scores.device.type, enabled=False):
        scores = at_least_single(scores)
        bin_score = torch.as_tensor(dustbin, dtype=scores.dtype, device=scores.device)
        flat = scores.reshape(-1, m, n)
        bins = bin_score.expand(lead).reshape(-1)
        if unroll:
            plan = _unrolled(_couplings(flat, bins), iterations, tolerance)
        else:
            plan = _LogSinkhorn.apply(flat, bins, iterations, tolerance)
        return plan.reshape(*lead, m + 1, n + 1)


class _LogSinkhorn(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, bins: Tensor, iterations: int, tolerance: float | None
    ) -> Tensor:
        couplings = _couplings(scores, bins)
        u, v = _potentials(couplings, iterations, tolerance)
        plan = couplings.add_(u[:, :, None]).add_(v[:, None, :])
        ctx.save_for_backward(plan)
        return plan

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (plan,) = ctx.saved_tensors
        grad_z = _adjoint(plan, grad)
        grad_bins = grad_z[:, -1].sum(-1) + grad_z[:, :-1, -1].sum(-1)
        return grad_z[:, :-1, :-1], grad_bins, None, None


def _couplings(scores: Tensor, bins: Tensor) -> Tensor:
    """Scores bordered by the dustbin, ``(B, M+1, N+1)``."""
    batch, m, n = scores.shape
    right = bins[:, None, None].expand(batch, m, 1)
    below = bins[:, None, None].expand(batch, 1, n + 1)
    return torch.cat([torch.cat([scores, right], dim=2), below], dim=1)


def _log_marginals(couplings: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of what rows and columns sum to: 1 for tokens, N and M for the dustbins."""
    rows, columns = couplings.shape[1:]
    log_a = couplings.new_zeros(rows)
    log_b = couplings.new_zeros(columns)
    log_a[-1].fill_(math.log(columns - 1))
    log_b[-1].fill_(math.log(rows - 1))
    return log_a, log_b


def _potentials(
    couplings: Tensor, iterations: int, tolerance: float | None
) -> tuple[Tensor, Tensor]:
    """Potentials of the plan: in the kernel domain where it is safe, else in the log domain.

    The kernel exp(Z + u + v) is formed anew with the potentials so far every few iterations
    (log stabilisation: Schmitzer, SIAM J. Sci. Comput. 2019), so that sharp scores, too, take
    products instead of logsumexp once the first iterations are done.
    """
    u, v = -couplings.amax(2), couplings.new_zeros(couplings.shape[0], couplings.shape[2])
    if couplings.device.type != "cpu":
        return _unasked(couplings, u, v, iterations)
    done, block = 0, _LOG_BLOCK
    while done < iterations:
        count = min(block, iterations - done)
        step = _kernel_block(couplings, u, v, count, tolerance)
        if step is None:
            step = _log_block(couplings, u, v, count, tolerance)
        else:
            block = _KERNEL_BLOCK
        u, v, converged = step
        if converged:
            break
        done += count
    return u, v


def _unasked(couplings: Tensor, u: Tensor, v: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """All iterations without a look at any value, so that the host need not wait for a device.

    Blocks of either domain take turns. A sample for which the kernel lost too much range keeps
    what the log domain had found for it.
    """
    done = 0
    while done < iterations:
        count = min(_LOG_TURN, iterations - done)
        u, v, _ = _log_block(couplings, u, v, count, None)
        done += count
        count = min(_KERNEL_TURN, iterations - done)
        if count > 0:
            log_alpha, log_beta, _ = _scaled(couplings, u, v, count, None)
            kept = _range_kept(log_alpha, log_beta)[:, None]
            u, v = torch.where(kept, u + log_alpha, u), torch.where(kept, v + log_beta, v)
            done += count
    return u, v


def _log_block(
    couplings: Tensor, u: Tensor, v: Tensor, iterations: int, tolerance: float | None
) -> tuple[Tensor, Tensor, bool]:
    """Iterations in the log domain: any scores, at the price of two logsumexp each."""
    log_a, log_b = _log_marginals(couplings)
    every, limit = _stopping(couplings, tolerance, iterations)
    for step in range(1, iterations + 1):
        previous = u
        u = log_a - torch.logsumexp(couplings + v[:, None, :], dim=2)
        v = log_b - torch.logsumexp(couplings + u[:, :, None], dim=1)
        if step % every == 0 and float((u - previous).detach().abs().max()) < limit:
            return u, v, True
    return u, v, False


def _kernel_block(
    couplings: Tensor, u: Tensor, v: Tensor, iterations: int, tolerance: float | None
) -> tuple[Tensor, Tensor, bool] | None:
    """The same iterations by scaling exp(Z + u + v); None where that loses too much range."""
    log_alpha, log_beta, converged = _scaled(couplings, u, v, iterations, tolerance)
    if not bool(_range_kept(log_alpha, log_beta).all()):
        return None
    return u + log_alpha, v + log_beta, converged


def _range_kept(log_alpha: Tensor, log_beta: Tensor) -> Tensor:
    """``(B,)``: entries that underflowed stay negligible however much they were scaled."""
    growth = log_alpha.amax(1) + log_beta.amax(1)
    return growth < -math.log(torch.finfo(growth.dtype).tiny) / 2


def _scaled(
    couplings: Tensor, u: Tensor, v: Tensor, iterations: int, tolerance: float | None
) -> tuple[Tensor, Tensor, bool]:
    """Logarithms of what scales rows and columns of exp(Z + u + v), and whether they settled."""
    a, b = (marginal.exp()[None, None] for marginal in _log_marginals(couplings))
    kernel = (couplings + u[:, :, None]).add_(v[:, None, :]).exp_()
    # A row vector times a contiguous matrix is the fast case, so both orientations are kept.
    turned = kernel.mT.contiguous()
    alpha, beta = torch.ones_like(u)[:, None], torch.ones_like(v)[:, None]
    every, limit = _stopping(couplings, tolerance, iterations)
    converged = False
    for step in range(1, iterations + 1):
        previous = alpha
        alpha = a / (beta @ turned)
        beta = b / (alpha @ kernel)
        if step % every == 0 and float((alpha / previous).log_().abs_().max()) < limit:
            converged = True
            break
    return alpha.log_()[:, 0], beta.log_()[:, 0], converged


def _stopping(couplings: Tensor, tolerance: float | None, iterations: int) -> tuple[int, float]:
    """After how many iterations to look at the change, and below what to stop."""
    if tolerance is None:
        return iterations + 1, 0.0
    # Looking waits for the device, so an accelerator is asked less often.
    return (1 if couplings.device.type == "cpu" else 10), tolerance


def _unrolled(couplings: Tensor, iterations: int, tolerance: float | None) -> Tensor:
    batch, rows, columns = couplings.shape
    u, v = couplings.new_zeros(batch, rows), couplings.new_zeros(batch, columns)
    u, v, _ = _log_block(couplings, u, v, iterations, tolerance)
    return couplings + u[:, :, None] + v[:, None, :]


def _adjoint(log_plan: Tensor, grad: Tensor) -> Tensor:
    """Gradient with respect to the couplings, from the one with respect to the log plan.

    The linear system has the null vector (1, −1), the gauge freedom of (u, v): adding a constant
    to λ and taking it from μ changes nothing. Holding μ of the dustbin at 0 removes it exactly.
    What is left is a graph Laplacian with one node grounded; its diagonal is summed from the
    off-diagonal entries, never from 1 − (nearly 1), and so it keeps its accuracy for plans that
    are nearly permutations.
    """
    if log_plan.shape[1] < log_plan.shape[2]:  # the smaller system
        return _adjoint(log_plan.mT, grad.mT).mT
    # Nearly decided plans make the system ill-conditioned: worth double precision where it exists.
    dtype = log_plan.dtype if log_plan.device.type == "mps" else torch.float64
    plan = torch.exp(log_plan.to(dtype))
    row_grad, column_grad = grad.sum(2, dtype=dtype), grad.sum(1, dtype=dtype)
    per_row = 1 / plan.sum(2)
    system = (plan[:, :, :-1] * per_row[:, :, None]).mT @ plan  # (B, N, N+1)
    system.diagonal(dim1=1, dim2=2).zero_()
    degree = system.sum(2)
    system = system[:, :, :-1].neg_()
    # A token that is decided beyond the number format has no edges left. Its μ then cancels in
    # λ + μ; the small ridge only keeps the factorisation defined.
    ridge = 1e-12 if dtype == torch.float64 else 1e-6
    system.diagonal(dim1=1, dim2=2).copy_(degree * (1 + ridge) + ridge)
    right = column_grad - ((row_grad * per_row)[:, None] @ plan)[:, 0]
    factor, _ = torch.linalg.cholesky_ex(system)
    mu = torch.cholesky_solve(right[:, :-1, None], factor)
    mu = torch.nn.functional.pad(mu, (0, 0, 0, 1))
    lam = per_row[:, :, None] * (row_grad[:, :, None] - plan @ mu)
    plan *= lam + mu.mT
    return grad - plan.to(grad.dtype)
