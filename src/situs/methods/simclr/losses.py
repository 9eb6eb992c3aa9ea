"""NT-Xent over all views of all processes; the paper's, equation 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from situs.methods.distributed import gathered, rank
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
    similarity = product(own, gathered(own).T) / temperature
    index = torch.arange(2 * batch, device=own.device)
    first_of_own = rank() * 2 * batch
    itself = index + first_of_own
    similarity = similarity.scatter(1, itself[:, None], -torch.inf)
    partner = (index + batch) % (2 * batch) + first_of_own
    return F.cross_entropy(similarity, partner)
