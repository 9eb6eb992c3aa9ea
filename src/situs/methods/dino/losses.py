"""Cross entropy between the teacher's and the student's answers, and a spread of embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from situs.methods.distributed import gathered, gathered_still, rank, share
from situs.methods.precision import at_least_single, product
from situs.methods.slopes import unit


def distillation(
    student: Tensor,
    teacher: Tensor,
    center: Tensor,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """Mean cross entropy H(P_t(x), P_s(x')) over teacher views x and student views x' ≠ x.

    P_s = softmax(z_s / τ_s) and P_t = softmax((z_t − c) / τ_t), without gradient to the teacher
    (Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", arXiv 2104.14294,
    equations 1 to 3).

    Args:
        student: ``(V, B, K)``, logits of all views; the first are the teacher's, in its order.
        teacher: ``(G, B, K)``, logits of the global views, G ≤ V.
        center: ``(K,)``, running mean of the teacher's logits.
        student_temperature: τ_s.
        teacher_temperature: τ_t.
    """
    target = centred(teacher, center, teacher_temperature)
    return agreement(student, target, student_temperature)


def centred(teacher: Tensor, center: Tensor, temperature: float = 0.04) -> Tensor:
    """P_t of :func:`distillation`: the teacher's answers, centred and sharpened, no gradient."""
    return ((at_least_single(teacher) - center) / temperature).softmax(-1).detach()


def agreement(student: Tensor, target: Tensor, temperature: float = 0.1) -> Tensor:
    """Mean cross entropy of the student's answers and targets over pairs of unlike views.

    Args:
        student: ``(V, B, K)``, logits of all views; the first are the targets', in their order.
        target: ``(G, B, K)``, probabilities, G ≤ V.
        temperature: τ of the student's softmax.
    """
    answer = (at_least_single(student) / temperature).log_softmax(-1)
    pairs = product(target.flatten(1), answer.flatten(1).mT)
    other = ~torch.eye(len(target), len(answer), dtype=torch.bool, device=pairs.device)
    # Selecting by a mask would wait for the device.
    return (pairs * other).sum() / -(target.shape[1] * len(target) * (len(answer) - 1))


@torch.no_grad()
def balanced(teacher: Tensor, temperature: float = 0.04, iterations: int = 3) -> Tensor:
    """Targets that use all prototypes equally, by Sinkhorn's iterations over all processes.

    As in SwAV (arXiv 2006.09882, section 3.1) and DINOv2 (arXiv 2304.07193, section 4), instead of
    taking off a running mean: exp(z / τ) is scaled so that prototypes have equal shares of the
    batch, and answers sum to 1.

    Args:
        teacher: ``(G, B, K)`` logits.
        temperature: τ of the teacher.
        iterations: Scalings of prototypes and of answers in turn; the answers' come last.

    Returns:
        ``(G, B, K)`` probabilities.
    """
    own = (at_least_single(teacher) / temperature).flatten(0, -2)
    every = gathered_still(own)
    log = every - every.logsumexp(-1, keepdim=True)
    for _ in range(iterations):
        log = log - log.logsumexp(0, keepdim=True)
        log = log - log.logsumexp(-1, keepdim=True)
    return share(log).exp().view_as(teacher)


def koleo(embeddings: Tensor) -> Tensor:
    """Spread the directions of ``(…, B, D)``: −mean log of the distance to the nearest other of B.

    The Kozachenko-Leonenko estimate of entropy (Sablayrolles et al., arXiv 1806.03198, equation
    2), as DINOv2 uses it (arXiv 2304.07193, section 4); among the samples of all processes.
    """
    directions = unit(at_least_single(embeddings), -1)
    every = gathered(directions.movedim(-2, 0)).movedim(0, -2)
    nearest = _nearest(directions, every)
    # The nearest one is only chosen by similarity: its distance must keep its precision.
    distance = (directions - every.take_along_dim(nearest[..., None], -2)).norm(dim=-1)
    return -(distance + 1e-8).log().mean()


@torch.no_grad()
def _nearest(directions: Tensor, every: Tensor) -> Tensor:
    """``(…, B)``, which of ``every`` ``(…, W·B, D)`` is most like each of this process."""
    similarity = product(directions, every.mT)
    itself = rank() * directions.shape[-2]
    similarity.diagonal(itself, -2, -1).fill_(-2)
    return similarity.argmax(-1)


@torch.no_grad()
def update_center(center: Tensor, teacher: Tensor, momentum: float) -> None:
    """C ← m c + (1 − m) mean of the teacher's logits over the views of all processes, in place.

    Equation 4 of arXiv 2104.14294.

    Args:
        center: ``(K,)``.
        teacher: ``(…, K)``.
        momentum: m.
    """
    mean = at_least_single(teacher).flatten(0, -2).mean(0)
    mean = gathered_still(mean[None]).mean(0)
    center.lerp_(mean.to(center.dtype), 1 - momentum)
