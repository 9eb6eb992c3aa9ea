"""Heads and losses of ``spatial`` with 8 views and all routes, against one route and chunk a time.

Run with one thread: ``OMP_NUM_THREADS=1 python -m benchmarks.spatial``. The plain way is that of
the reference implementation: routes by recursion, chunks cut and embedded one by one. Both take
the same heads; processor time of forward and backward, and how far the gradients lie apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from situs.config import validate
from situs.geometry import gap_matrix
from situs.methods.spatial import losses
from situs.methods.spatial.chunks import chunk_starts, cut_chunks
from situs.methods.spatial.config import SpatialConfig
from situs.methods.spatial.heads import SpatialHeads

VIEWS, CHANNELS, SIZE, CHUNK = 8, 8, 24, 8


def batched(heads: SpatialHeads, maps: Tensor, vectors: Tensor, gaps: Tensor) -> Tensor:
    """situs: all pairs, chunks and routes at once; one sample."""
    steps = heads.steps(vectors)
    first, second = torch.triu_indices(VIEWS, VIEWS, 1)
    starts = chunk_starts(gaps[first, second], [SIZE] * 3, [CHUNK] * 3)
    which = torch.stack([first, second, first, second], 1).flatten()
    chunks = cut_chunks(maps, which, starts.reshape(-1, 3), [CHUNK] * 3)
    near_i, near_j, far_i, far_j = heads.chunk_vector(chunks).view(len(first), 4, -1).unbind(1)
    return (
        losses.gap_axis(heads.gaps(vectors), gaps)
        + losses.vector(steps, gaps)
        + losses.route(steps, gaps)
        + losses.chunk_adjacent(near_i, near_j)
        + losses.chunk_distant(far_i, far_j)
    )


def one_by_one(heads: SpatialHeads, maps: Tensor, vectors: Tensor, gaps: Tensor) -> Tensor:
    """Plainly: a loop over pairs and over chunks, routes by recursion."""
    pairs = [(i, j) for i in range(VIEWS) for j in range(VIEWS) if i != j]
    place = [heads.direction(vector) for vector in vectors]
    step = {(i, j): place[j] - place[i] for i, j in pairs}
    total = sum(F.mse_loss(heads.gap(vectors[j] - vectors[i]), gaps[i, j]) for i, j in pairs)
    total = total + sum(F.smooth_l1_loss(step[pair], gaps[pair]) for pair in pairs)
    total = total / len(pairs)

    routes: list[Tensor] = []

    def visit(at: int, left: tuple[int, ...], made: Tensor, true: Tensor) -> None:
        if not left:
            routes.append(F.smooth_l1_loss(made, true))
        for to in left:
            rest = tuple(view for view in left if view != to)
            visit(to, rest, made + step[at, to], true + gaps[at, to])

    for start in range(VIEWS):
        others = tuple(view for view in range(VIEWS) if view != start)
        visit(start, others, torch.zeros(3), torch.zeros(3))
    total = total + sum(routes) / len(routes)

    above = [(i, j) for i, j in pairs if i < j]
    for i, j in above:
        starts = chunk_starts(gaps[i, j], [SIZE] * 3, [CHUNK] * 3).tolist()
        found = []
        for view, (x, y, z) in zip((i, j, i, j), starts, strict=True):
            part = maps[view, :, x : x + CHUNK, y : y + CHUNK, z : z + CHUNK]
            found.append(heads.chunk_vector(part[None]))
        near, far = F.cosine_similarity(found[0], found[1]), F.cosine_similarity(found[2], found[3])
        total = total + (far - near).mean() / len(above)
    return total


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = validate(SpatialConfig, {"view_size": [SIZE] * 3})
    heads = SpatialHeads(CHANNELS, CHANNELS, config)
    maps = torch.randn(VIEWS, CHANNELS, SIZE, SIZE, SIZE, requires_grad=True)
    vectors = torch.randn(VIEWS, config.width, requires_grad=True)
    gaps = gap_matrix(torch.rand(VIEWS, 3) * 40)

    def run(way: Callable[..., Tensor]) -> tuple[float, list[Tensor]]:
        begin = time.process_time()
        gradients = torch.autograd.grad(way(heads, maps, vectors, gaps), [maps, vectors])
        return time.process_time() - begin, list(gradients)

    run(batched)
    fast = min(run(batched)[0] for _ in range(7))
    slow, wanted = run(one_by_one)
    got = run(batched)[1]
    apart = max(float((g - w).norm() / w.norm()) for g, w in zip(got, wanted, strict=True))
    print(
        f"{VIEWS} views, all {VIEWS} × 5,040 routes, 28 pairs of 4 chunks: {1e3 * fast:.0f} ms; "
        f"one by one {1e3 * slow:.0f} ms, {slow / fast:.0f} times as long; gradients differ by "
        f"{apart:.0e}"
    )


if __name__ == "__main__":
    main()
