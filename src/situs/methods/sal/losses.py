"""Losses of ``sal``: local alignment and global position.

``local`` is the paper's (arXiv 2406.15699), its windows and the search in blocks are ours. The
paper's ``global`` has no published formula: :func:`position_contrast` is positional contrastive
learning with its thresholds, :func:`position_regression` ours. So is ``spread``.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from situs.methods.distributed import divisor, gathered, gathered_still, rank
from situs.methods.precision import at_least_single, product
from situs.methods.slopes import known, unit

# Similarities held at once, 16 MB in float32: stays in the last-level cache.
_BLOCK = 2**22
# Similarity of a slice with itself: finite, and no share is left of it in any softmax.
_ITSELF = -1e4


def local_alignment(x_i: Tensor, x_j: Tensor, window: int | None = None) -> Tensor:
    """Every position of a slice should have one in the near slice that looks like it.

    With A = X_iᵀ X_j of L2-normalised features, mean |1 − max_q A_pq| over the positions p of i,
    averaged with the same from j to i (arXiv 2406.15699; design 5.3).

    The largest similarities are searched block by block without gradient, and only the pairs
    found carry one: the same value and gradient as through the whole matrix, in memory that
    grows with the number of positions instead of its square.

    Args:
        x_i: ``(B, C, H, W)`` features of one slice of each pair.
        x_j: ``(B, C, H, W)`` of the other.
        window: Match inside windows of this many positions a side only, so that time grows with
            H·W·window² instead of (H·W)². The map is partitioned from its first position; the
            windows at its end may be smaller.

    Returns:
        Scalar, 0 (all matched) to 2.
    """
    return aligned(unit(at_least_single(torch.stack([x_i, x_j], 1)), 2), window)


def aligned(directions: Tensor, window: int | None = None, seen: Tensor | None = None) -> Tensor:
    """:func:`local_alignment` of pairs of unit vectors.

    Args:
        directions: ``(B, 2, C, H, W)``, features of both slices of each pair, of unit length.
        window: As there.
        seen: ``(B, H, W)``, positions that count; the others match nothing. None for all.
    """
    with torch.autocast(directions.device.type, enabled=False):
        if seen is not None:
            directions = directions * seen[:, None, None]
        return known(*_mismatch(directions, window, seen))


@torch.no_grad()
def _mismatch(
    directions: Tensor, window: int | None, seen: Tensor | None
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Value and gradient of :func:`aligned`, of vectors that are zero where they do not count."""
    to_j, to_i = best_matches(directions[:, 0], directions[:, 1], window)
    flat = directions.flatten(3)
    # Where in each slice the matches of the other one's positions were found.
    index = torch.stack([to_i, to_j], 1)[:, :, None].expand_as(flat)
    matched = flat.gather(3, index).flip(1)
    cosines = (flat * matched).sum()
    count = to_j.numel() if seen is None else seen.sum()
    number = divisor(count) if isinstance(count, Tensor) else count
    # No cosine is above 1, but for rounding: |1 − cosine| needs no sign.
    value = (count - cosines / 2) / number
    # Both ends of a match move: where it begins, and where it was found in the other slice.
    slope = matched.scatter_add_(3, index, flat.flip(1)).div_(-2 * number)
    return value, [(directions, slope.view_as(directions))]


@torch.no_grad()
def best_matches(
    unit_i: Tensor, unit_j: Tensor, window: int | None = None
) -> tuple[Tensor, Tensor]:
    """Index of the most similar position, ``(B, H·W)`` each: in j for i's, in i for j's.

    Args:
        unit_i: ``(B, C, H, W)``, normalised over channels.
        unit_j: ``(B, C, H, W)``, likewise.
        window: See :func:`local_alignment`.
    """
    height, width = unit_i.shape[2:]
    if window is None or window >= max(height, width):
        return _argmaxes(unit_i.flatten(2), unit_j.flatten(2), None)
    size = (min(window, height), min(window, width))
    where, inside = _places(height, width, size, unit_i.device)
    where = where.expand(len(unit_i), -1, -1).flatten(0, 1)
    if inside is not None:
        inside = inside.expand(len(unit_i), -1, -1).flatten(0, 1)
    part_i, part_j = (_windows(unit, size).flatten(0, 1) for unit in (unit_i, unit_j))
    found = _argmaxes(part_i, part_j, inside)
    to_j, to_i = (_from_windows(where.gather(1, f), size, unit_i.shape) for f in found)
    return to_j, to_i


@lru_cache(maxsize=16)
def _places(
    height: int, width: int, size: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Where the positions of windows lie in the map, ``(windows, positions)``.

    And whether they do; None where no window is padded.
    """
    with torch.inference_mode(False):
        index = torch.arange(height * width).view(1, 1, height, width)
        # Position 0 belongs to the map, so padding needs a value of its own.
        where = _windows(index + 1, size)[0, :, 0] - 1
        padded = bool((where < 0).any())
        return where.to(device), (where >= 0).to(device) if padded else None


def _from_windows(values: Tensor, size: tuple[int, int], shape: torch.Size) -> Tensor:
    """``(B · windows, positions)`` → the map ``(B, H·W)``, without the windows' padding."""
    (batch, _, height, width), (h, w) = shape, size
    down, across = -(-height // h), -(-width // w)
    whole = values.view(batch, down, across, h, w).transpose(2, 3).reshape(batch, down * h, -1)
    return whole[:, :height, :width].flatten(1)


def _windows(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``(B, C, H, W)`` → ``(B, windows, C, positions)``, zero-padded at the end."""
    h, w = size
    if x.shape[3] % w or x.shape[2] % h:
        x = F.pad(x, (0, -x.shape[3] % w, 0, -x.shape[2] % h))
    batch, channels, height, width = x.shape
    x = x.view(batch, channels, height // h, h, width // w, w)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels, h * w)


def _argmaxes(i: Tensor, j: Tensor, inside: Tensor | None) -> tuple[Tensor, Tensor]:
    """Row and column argmax of iᵀj ``(B, N, N)``, never held as a whole.

    Args:
        i: ``(B, C, N)``.
        j: ``(B, C, N)``.
        inside: ``(B, N)``, which positions are real; None for all.
    """
    batch, _, n = i.shape
    together = max(1, min(batch, _BLOCK // n**2))
    if together == batch:
        return _argmaxes_rows(i, j, inside)
    results = [
        _argmaxes_rows(
            i[b : b + together],
            j[b : b + together],
            None if inside is None else inside[b : b + together],
        )
        for b in range(0, batch, together)
    ]
    to_j, to_i = zip(*results, strict=True)
    return torch.cat(to_j), torch.cat(to_i)


def _argmaxes_rows(i: Tensor, j: Tensor, inside: Tensor | None) -> tuple[Tensor, Tensor]:
    batch, _, n = i.shape
    rows = max(1, _BLOCK // (batch * n))
    if rows >= n and inside is None:
        similarity = product(i.transpose(1, 2), j)
        return similarity.argmax(2), similarity.argmax(1)
    to_j = torch.empty(batch, n, dtype=torch.long, device=i.device)
    best = i.new_full((batch, n), -torch.inf)
    to_i = torch.zeros(batch, n, dtype=torch.long, device=i.device)
    for start in range(0, n, rows):
        block = slice(start, start + rows)
        similarity = product(i[:, :, block].transpose(1, 2), j)
        if inside is not None:
            similarity.masked_fill_(~inside[:, None, :], -torch.inf)
            to_j[:, block] = similarity.argmax(2)
            similarity.masked_fill_(~inside[:, block, None], -torch.inf)
        else:
            to_j[:, block] = similarity.argmax(2)
        value, index = similarity.max(1)
        better = value > best
        best = torch.where(better, value, best)
        to_i = torch.where(better, index + start, to_i)
    return to_j, to_i


def position_contrast(
    embeddings: Tensor,
    positions: Tensor,
    groups: Tensor,
    threshold: float = 0.1,
    temperature: float = 0.1,
    together: Tensor | None = None,
    hardness: float = 0.0,
    kin: Tensor | None = None,
) -> Tensor:
    """Slices at similar places along their scans are positives of each other.

    For slice a with positives P(a) = {p ≠ a : |position_a − position_p| < threshold},
    −1/|P(a)| Σ_p log exp(z_a·z_p/τ) / Σ_{k≠a} exp(z_a·z_k/τ), averaged over the slices that
    have a positive (positional contrastive learning, Zeng et al., arXiv 2106.09157). Under
    distributed training the slices of all processes are candidates.

    With a ``hardness`` β, exp(z_a·z_n/τ) of a negative n counts w_n times, w_n = exp(β z_a·z_n)
    over its mean among the negatives of a: those that look alike and lie elsewhere count most
    (Robinson et al., arXiv 2010.04592, without its correction for false negatives). Ours are that
    w carries no gradient, and that negatives of the slice's own scan count once: they look alike
    anyway.

    Args:
        embeddings: ``(N, D)``, normalised inside.
        positions: ``(N,)``, share of the way from the first slice of the scan to the last.
        groups: ``(N,)`` integers; slices of different groups (stack directions) have no common
            scale and are never positives.
        threshold: On the difference of positions.
        temperature: τ.
        together: ``(N, N)`` boolean, pairs of these slices that are positives whatever their
            positions: near slices of one scan, which another term pulls together (ours).
        hardness: β; 0 counts every negative once.
        kin: ``(N, N)`` boolean, which of these slices are of one scan; those of other processes
            are taken for ones of other scans.

    Returns:
        Scalar; 0 where no slice has a positive.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        own = unit(at_least_single(embeddings), -1)
        every = gathered(own)
        positive = _positives(positions, groups, threshold, together)
        counts = _hardness(own, every, positive, kin, hardness) if hardness else None
        return known(*_contrast(own, every, positive, temperature, counts))


@torch.no_grad()
def _hardness(
    own: Tensor, every: Tensor, positive: Tensor, kin: Tensor | None, beta: float
) -> Tensor:
    """``(N, W·N)``, logarithm of how often each slice counts beside another; 0 for once."""
    strange = ~positive
    first = rank() * len(own)
    here = strange[:, first : first + len(own)]
    here.fill_diagonal_(False)
    if kin is not None:
        here.logical_and_(~kin)
    hard = product(own, every.T).mul_(beta)
    mean = hard.masked_fill(~strange, -torch.inf).logsumexp(1, keepdim=True)
    mean -= strange.sum(1, keepdim=True, dtype=hard.dtype).clamp_min(1).log()
    return hard.sub_(mean).masked_fill_(~strange, 0)


@torch.no_grad()
def _positives(
    positions: Tensor, groups: Tensor, threshold: float, together: Tensor | None
) -> Tensor:
    """``(N, W·N)`` boolean, which slices of all processes are positives of these."""
    at, of = gathered_still(positions), gathered_still(groups)
    first = rank() * len(positions)
    near = torch.cdist(positions[:, None], at[:, None], p=1) < threshold
    own = near[:, first : first + len(positions)]
    if together is not None:
        own.logical_or_(together)
    near.logical_and_(groups[:, None] == of)
    own.fill_diagonal_(False)
    return near


@torch.no_grad()
def _contrast(
    own: Tensor,
    every: Tensor,
    positive: Tensor,
    temperature: float,
    counts: Tensor | None = None,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Value and gradient of :func:`position_contrast`, of unit vectors."""
    logits = product(own, every.T).div_(temperature)
    if counts is not None:
        logits += counts
    first = rank() * len(own)
    logits[:, first : first + len(own)].fill_diagonal_(_ITSELF)
    log_share = logits.log_softmax(1)
    count = positive.sum(1, keepdim=True, dtype=own.dtype)
    has_one = count.clamp_max(1)
    # As a mean over the slices of all processes that have one.
    each = has_one / divisor(has_one.sum())
    target = positive * (each / count.clamp_min(1))
    value = -(target * log_share).sum()
    slope = log_share.exp_().mul_(each).sub_(target).div_(temperature)
    if every is own:  # one process: a slice is to the others what they are to it
        return value, [(own, product(slope + slope.T, own))]
    return value, [(own, product(slope, every)), (every, product(slope.T, own))]


def position_regression(predicted: Tensor, positions: Tensor, groups: Tensor) -> Tensor:
    """SmoothL1 between the predicted and the true position of a slice.

    Args:
        predicted: ``(N, 3)``, one position for each stack direction.
        positions: ``(N,)`` in [0, 1].
        groups: ``(N,)``, which direction each slice's stack has.
    """
    chosen = predicted.float().gather(1, groups[:, None])[:, 0]
    return F.smooth_l1_loss(chosen, positions, beta=0.1)


def spread(embeddings: Tensor, most: int = 256) -> Tensor:
    """Keeps the positions of one slice apart: 1 when all are alike, 0 when they are orthogonal.

    1 + ¼ log mean_{p≠q} exp(−2‖u_p − u_q‖²) over pairs of positions of one slice, averaged over
    slices: the uniformity loss of Wang and Isola (arXiv 2005.10242), scaled. It is not part of
    the method's paper. ``local`` alone is solved by a constant, and with slices kept apart by
    ``global`` still by features of a few directions, whose matches are no better than untrained.

    Args:
        embeddings: ``(B, C, H, W)``, normalised inside.
        most: Positions of a slice that are compared, evenly spread over it.
    """
    return crowding(unit(at_least_single(embeddings), 1), most)


def crowding(directions: Tensor, most: int = 256) -> Tensor:
    """:func:`spread` of embeddings of unit length."""
    flat = directions.flatten(2)
    with torch.autocast(flat.device.type, enabled=False):
        return known(*_crowding(flat[:, :, :: -(-flat.shape[2] // most)]))


@torch.no_grad()
def _crowding(directions: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Value and gradient of :func:`crowding`, of unit vectors ``(B, C, N)``."""
    batch, _, n = directions.shape
    # −2‖u_p − u_q‖² = 4 u_p·u_q − 4, and a quarter of the last 4 takes the formula's 1 off.
    closeness = product(directions.mT, directions).mul_(4).exp_()
    closeness.diagonal(dim1=1, dim2=2).zero_()
    total = closeness.sum((1, 2))
    value = (total.log().mean() - math.log(n * (n - 1))) / 4
    closeness.div_((total * (batch / 2))[:, None, None])
    return value, [(directions, product(directions, closeness))]
