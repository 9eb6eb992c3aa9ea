"""NT-Xent over all views of all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from situs.methods.precision import at_least_single, product


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.1) -> Tensor:
    """Normalised temperature-scaled cross entropy.

    For views i and j of one sample, −log exp(s_ij/τ) / Σ_{k≠i} exp(s_ik/τ) with cosine
    similarities s, averaged over all views (Chen et al., "A Simple Framework for Contrastive
    Learning of Visual Representations", arXiv 2002.05709, equation 1).

    Under distributed training each process takes its own views as anchors and those of all
    processes as candidates; gradients flow back to the process a candidate came from, so that
    the average over processes equals one process with the whole batch. Every process must hold
    the same number of samples.

    Args:
        first: ``(B, D)``, embedding of one view of each sample.
        second: ``(B, D)``, of the other view.
        temperature: τ.

    Returns:
        Scalar.
    """
    own = F.normalize(at_least_single(torch.cat([first, second])), dim=-1)
    batch = len(first)
    rank = 0
    candidates = own
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        rank = dist.get_rank()
        candidates = torch.cat(all_gather(own))
    similarity = product(own, candidates.T) / temperature
    index = torch.arange(2 * batch, device=own.device)
    itself = index + rank * 2 * batch
    similarity = similarity.scatter(1, itself[:, None], -torch.inf)
    partner = (index + batch) % (2 * batch) + rank * 2 * batch
    return F.cross_entropy(similarity, partner)
