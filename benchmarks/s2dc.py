"""Losses and samples of the method ``s2dc``, against slower ways to the same.

Run with one thread: ``OMP_NUM_THREADS=1 python -m benchmarks.s2dc [--plots FOLDER]``. Prints, for
12 groups of 144 tokens of dimension 512, processor time and peak memory of forward and backward
from the tokens to their gradients, and how far the gradients are from the reference's; with
``--plots`` also how time grows with tokens, groups and sharpness. Then processor time of
the moved copy of the reference's region (384×384×96 voxels, motion within a plane) against plain
trilinear resampling of the same region, and of a whole sample.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from situs.config import validate
from situs.methods.s2dc import consistency, discrepancy, log_sinkhorn
from situs.methods.s2dc.config import S2dcConfig
from situs.methods.s2dc.motion import draw_motion, moved_copy
from situs.methods.s2dc.presets import PRESETS
from situs.methods.s2dc.views import sample_region
from situs.views import ArraySource

GROUPS, TOKENS, FEATURES = 12, 144, 512
Tokens = tuple[Tensor, Tensor, Tensor]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def problem(groups: int, tokens: int, features: int = FEATURES) -> tuple[Tokens, Tensor]:
    """Unit tokens and their noisy copies, three quarters of them matched; the dustbin's score."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(groups, tokens, features, generator=generator)
    k = q + torch.randn(q.shape, generator=generator)
    matched = torch.arange(tokens) < max(1, tokens * 3 // 4)
    matches = torch.diag(matched).expand(groups, tokens, tokens)
    unit = torch.nn.functional.normalize
    return (unit(q, dim=-1), unit(k, dim=-1), torch.ones(())), matches


def per_sample(q: Tensor, k: Tensor, dustbin: Tensor, matches: Tensor, tau: float = 1.0) -> Tensor:
    """The reference: one group after the other, 100 iterations, gradients through all of them."""
    losses = []
    for one_q, one_k, match in zip(q, k, matches, strict=True):
        similarity = one_q @ one_k.T
        scores = similarity / tau
        m, n = scores.shape
        couplings = torch.cat(
            [
                torch.cat([scores, dustbin.expand(m, 1)], 1),
                dustbin.expand(1, n + 1),
            ]
        )
        log_a, log_b = torch.zeros(m + 1), torch.zeros(n + 1)
        log_a[-1], log_b[-1] = math.log(n), math.log(m)
        u, v = torch.zeros(m + 1), torch.zeros(n + 1)
        for _ in range(100):
            u = log_a - torch.logsumexp(couplings + v, 1)
            v = log_b - torch.logsumexp(couplings + u[:, None], 0)
        plan = (couplings + u[:, None] + v).exp()[:-1, :-1].clamp(1e-6, 1 - 1e-6)
        p2p = -plan[match].log().mean() - (1 - plan[~match]).log().mean()

        likeness = ((1 + similarity) / 2).clamp(1e-6, 1 - 1e-6)
        near = torch.zeros(())
        for axis in (0, 1):
            peak = likeness.amax(axis) - likeness.mean(axis)
            weight = (peak / likeness.std(axis)).softmax(0)
            near = near - (weight.unsqueeze(axis) * likeness.log())[match].sum() / 2
        losses.append(p2p + near - (1 - likeness[~match]).log().mean())
    return torch.stack(losses).mean()


def batched(
    q: Tensor,
    k: Tensor,
    dustbin: Tensor,
    matches: Tensor,
    tau: float = 1.0,
    cap: int = 100,
    tolerance: float | None = None,
    unroll: bool = False,
) -> Tensor:
    """situs: all groups at once."""
    similarity = q @ k.mT
    plan = log_sinkhorn(similarity / tau, dustbin, cap, tolerance, unroll=unroll)
    return discrepancy(plan, matches) + consistency(similarity, matches)


VARIANTS: dict[str, Loss] = {
    "per sample, 100 unrolled": per_sample,
    "batched, 100 unrolled": partial(batched, unroll=True),
    "implicit, 100 fixed": batched,
    "implicit, tolerance 1e-4": partial(batched, tolerance=1e-4),
}


def gradients(loss: Loss, tokens: Tokens, matches: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the loss with respect to both sets of tokens and the dustbin."""
    leaves = [t.clone().requires_grad_() for t in tokens]
    return torch.autograd.grad(loss(*leaves, matches), leaves)


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Processor time, best of ``repeats`` after one run to warm up."""
    run()
    best = math.inf
    for _ in range(repeats):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best


def peak_bytes(run: Callable[[], object]) -> int:
    """Most memory held at once by tensors that ``run`` allocates, as torch's allocator saw it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    held = peak = 0
    for event in sorted(recorded.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def distance(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Largest relative distance of a gradient, ‖got − wanted‖ / ‖wanted‖."""
    return max(float((g - w).norm() / w.norm()) for g, w in zip(got, wanted, strict=True))


def table() -> None:
    tokens, matches = problem(GROUPS, TOKENS)
    reference = gradients(per_sample, tokens, matches)
    slow_s = slow_bytes = math.inf
    print(f"{GROUPS} groups of {TOKENS} tokens of dimension {FEATURES}, forward and backward")
    print(f"{'':27}{'ms':>8}{'faster':>9}{'peak MB':>9}{'of ref.':>9}{'gradient off by':>17}")
    for name, loss in VARIANTS.items():
        run = partial(gradients, loss, tokens, matches)
        taken, held = seconds(run, 3 if loss is per_sample else 15), peak_bytes(run)
        if loss is per_sample:
            slow_s, slow_bytes = taken, held
        print(
            f"{name:27}{taken * 1e3:8.1f}{slow_s / taken:8.1f}×{held / 1e6:9.1f}"
            f"{held / slow_bytes:9.2f}{distance(run(), reference):17.1e}"
        )


def iterations(tau: float, tolerance: float = 1e-4, cap: int = 2000) -> int:
    """Iterations until the potentials change by less than ``tolerance`` (bisection on the cap)."""
    (q, k, dustbin), _ = problem(GROUPS, TOKENS)
    scores = q @ k.mT / tau
    wanted = log_sinkhorn(scores, dustbin, cap, tolerance)
    low, high = 1, cap
    while low < high:
        middle = (low + high) // 2
        same = torch.equal(log_sinkhorn(scores, dustbin, middle, tolerance), wanted)
        low, high = (low, middle) if same else (middle + 1, high)
    return low


def ticks(axes: Axes, values: Sequence[float]) -> None:
    """Name the measured places of a logarithmic axis, and no others."""
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()


def plots(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shown = [name for name in VARIANTS if name != "batched, 100 unrolled"]
    for axis, sizes in {
        "tokens": [(GROUPS, n) for n in (36, 72, 144, 288, 576)],
        "groups": [(b, TOKENS) for b in (1, 3, 12, 48)],
    }.items():
        figure = Figure(figsize=(5.5, 3.6), layout="constrained")
        axes = figure.subplots()
        for name in shown:
            times = []
            for groups, tokens in sizes:
                tensors, matches = problem(groups, tokens)
                run = partial(gradients, VARIANTS[name], tensors, matches)
                times.append(1e3 * seconds(run, 1 if name == shown[0] else 3))
            axes.loglog([s[axis == "tokens"] for s in sizes], times, "o-", label=name)
        ticks(axes, [s[axis == "tokens"] for s in sizes])
        axes.set(xlabel=axis, ylabel="forward and backward, ms")
        axes.legend()
        figure.savefig(folder / f"s2dc-{axis}.svg")

    temperatures = (1.0, 0.5, 0.2, 0.1, 0.05, 0.03)
    tensors, matches = problem(GROUPS, TOKENS)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.loglog(temperatures, [iterations(tau) for tau in temperatures], "o-")
    ticks(left, temperatures)
    left.set(xlabel="temperature", ylabel="iterations to max|Δu| < 1e-4")
    for name, loss in {
        shown[0]: per_sample,
        "implicit, tolerance 1e-4, cap 2000": partial(batched, tolerance=1e-4, cap=2000),
    }.items():
        times = [
            1e3 * seconds(partial(gradients, partial(loss, tau=tau), tensors, matches), 1)
            for tau in temperatures
        ]
        right.loglog(temperatures, times, "o-", label=name)
    ticks(right, temperatures)
    right.set(xlabel="temperature", ylabel="forward and backward, ms")
    right.legend()
    figure.savefig(folder / "s2dc-temperature.svg")
    print(f"plots are in {folder}")


def samples(draws: int = 5) -> None:
    """Time of the reference's moved copy and of its samples, medians over ``draws`` motions."""
    config = validate(S2dcConfig, PRESETS["reference"].options)
    size = config.region_size
    rng = np.random.default_rng(0)
    source = ArraySource(rng.standard_normal((1, 400, 400, 128), dtype=np.float32))
    source.background  # noqa: B018 - the least value of an array is looked up once
    region = ArraySource(source.read((0, 0, 0), size), air=source.background)
    times: dict[str, list[float]] = {"plain": [], "moved copy": [], "whole sample": []}

    def timed(name: str, call: Callable[[], object]) -> object:
        begin = time.process_time()
        result = call()
        times[name].append(time.process_time() - begin)
        return result

    worst = 0.0
    for draw in range(draws):
        affine = draw_motion(config.motion, np.full(3, 96.0), np.random.default_rng(draw))
        back, middle = np.linalg.inv(affine), (np.array(size) - 1) / 2
        offset = middle + back[:3, 3] - back[:3, :3] @ middle
        air = np.pad(region.array[0], 1, constant_values=source.background[0])
        plain = timed(
            "plain",
            partial(
                ndimage.affine_transform,
                air,
                back[:3, :3],
                offset + 1,
                output_shape=size,
                order=1,
                mode="nearest",
            ),
        )
        ours = timed("moved copy", partial(moved_copy, region, (0, 0, 0), size, affine))
        worst = max(worst, float(np.abs(ours[0] - plain).max()))  # type: ignore[index]
        timed("whole sample", partial(sample_region, source, config, np.random.default_rng(draw)))
    median = {name: 1000 * float(np.median(seconds)) for name, seconds in times.items()}
    print(f"\nreference sample, {'×'.join(map(str, size))} voxels, ms of one core:")
    print("  " + ", ".join(f"{name} {value:.0f}" for name, value in median.items()))
    ratio = median["plain"] / median["moved copy"]
    print(f"  moved copy {ratio:.1f}× faster than plain, differs by {worst:.0e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plots", type=Path, help="folder for the scaling plots")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table()
    samples()
    if arguments.plots:
        plots(arguments.plots)


if __name__ == "__main__":
    main()
