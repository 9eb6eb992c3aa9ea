from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, distributed, multiprocessing

from situs.methods.s2dc import consistency, discrepancy, info_nce, log_sinkhorn, sharpness

torch.set_num_threads(1)


def problem(batch: int, m: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Cosines and a partial matching, different in each sample."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(batch, size, 8, generator=generator) for size in (m, n))
    similarity = torch.nn.functional.normalize(q, dim=-1) @ torch.nn.functional.normalize(
        k, dim=-1
    ).transpose(1, 2)
    matches = torch.zeros(batch, m, n, dtype=torch.bool)
    for b in range(batch):
        count = int(torch.randint(0, min(m, n) + 1, (), generator=generator))
        rows = torch.randperm(m, generator=generator)[:count]
        columns = torch.randperm(n, generator=generator)[:count]
        matches[b, rows, columns] = True
    return similarity, matches


def slow_discrepancy(plan: Tensor, matches: Tensor) -> Tensor:
    """As the formula reads, one sample and one entry at a time."""
    samples = []
    for p, truth in zip(plan, matches, strict=True):
        hits, rest = [], []
        for i in range(truth.shape[0]):
            for j in range(truth.shape[1]):
                if truth[i, j]:
                    hits.append(-p[i, j].log())
                else:
                    rest.append(-(1 - p[i, j]).log())
        samples.append(sum(hits) / max(len(hits), 1) + sum(rest) / max(len(rest), 1))
    return sum(samples) / len(samples)  # type: ignore[return-value]


def slow_consistency(similarity: Tensor, matches: Tensor) -> Tensor:
    samples = []
    for s, truth in zip(similarity, matches, strict=True):
        m = (1 + s) / 2

        def weights(rows: list[Tensor]) -> Tensor:
            return torch.stack([(r.max() - r.mean()) / r.std() for r in rows]).softmax(0)

        by_row, by_column = weights(list(m)), weights(list(m.T))
        near = torch.zeros(())
        rest = []
        for i in range(m.shape[0]):
            for j in range(m.shape[1]):
                if truth[i, j]:
                    near = near - (by_row[i] + by_column[j]) / 2 * m[i, j].log()
                else:
                    rest.append(-(1 - m[i, j]).log())
        samples.append(near + sum(rest) / max(len(rest), 1))
    return torch.stack(samples).mean()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**16))
def test_discrepancy_equals_the_formula(batch: int, m: int, n: int, seed: int) -> None:
    similarity, matches = problem(batch, m, n, seed)
    similarity.requires_grad_()
    log_plan = log_sinkhorn(similarity, 1.0, tolerance=1e-7)
    expected = slow_discrepancy(log_plan.exp(), matches)
    (wanted,) = torch.autograd.grad(expected, similarity, retain_graph=True)
    for plan in (log_plan, log_plan.exp()):
        value = discrepancy(plan, matches)
        torch.testing.assert_close(value, torch.as_tensor(expected), atol=1e-5, rtol=1e-5)
        (got,) = torch.autograd.grad(value, similarity, retain_graph=True)
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-3)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(2, 6), st.integers(2, 6), st.integers(0, 2**16))
@example(batch=2, m=4, n=2, seed=3224)  # two entries of a row differ by 2e-4
def test_consistency_equals_the_formula(batch: int, m: int, n: int, seed: int) -> None:
    similarity, matches = problem(batch, m, n, seed)
    # Two nearly equal entries have hardly a spread to divide by: compared without rounding.
    similarity = similarity.double().requires_grad_()
    expected = slow_consistency(similarity, matches)
    value = consistency(similarity, matches)
    torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)
    (got,) = torch.autograd.grad(value, similarity)
    (wanted,) = torch.autograd.grad(expected, similarity)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6])
def test_the_sharpness_of_two_entries_is_the_same_however_near_they_are(gap: float) -> None:
    row = torch.tensor([[[0.3, 0.3 + gap]]], dtype=torch.double, requires_grad=True)
    sharp = sharpness(row)
    torch.testing.assert_close(sharp.item(), math.sqrt(0.5))
    (gradient,) = torch.autograd.grad(sharp.sum(), row)
    torch.testing.assert_close(gradient, torch.zeros_like(row), atol=1e-15 / gap**2, rtol=0)


def test_gradcheck_through_both_terms() -> None:
    similarity, matches = problem(2, 5, 4, seed=1)
    similarity = similarity.double().requires_grad_()
    dustbin = torch.tensor(0.5, dtype=torch.double, requires_grad=True)

    def total(s: Tensor, d: Tensor) -> Tensor:
        plan = log_sinkhorn(s, d, iterations=2000, tolerance=1e-13)
        return discrepancy(plan, matches) + consistency(s, matches)

    assert torch.autograd.gradcheck(total, (similarity, dustbin))


def test_padding_changes_nothing() -> None:
    similarity, matches = problem(1, 5, 5, seed=2)
    inner = (similarity[:, :4, 1:], matches[:, :4, 1:])
    valid = torch.zeros_like(matches)
    valid[:, :4, 1:] = True

    scores = similarity.masked_fill(~valid, -torch.inf)
    plan = log_sinkhorn(scores, 1.0, iterations=300)
    torch.testing.assert_close(
        discrepancy(plan, matches, valid), discrepancy(log_sinkhorn(inner[0], 1.0), inner[1])
    )
    torch.testing.assert_close(consistency(similarity, matches, valid), consistency(*inner))
    torch.testing.assert_close(sharpness(similarity, valid)[:, :4], sharpness(inner[0]))

    # A sample that is padding altogether gives nothing, and no NaN in the gradient either.
    similarity.requires_grad_()
    nothing = torch.zeros_like(valid)
    plan = log_sinkhorn(similarity.masked_fill(~nothing, -torch.inf), 1.0)
    loss = discrepancy(plan, matches, nothing) + consistency(similarity, matches, nothing)
    (gradient,) = torch.autograd.grad(loss, similarity)
    assert loss == 0
    assert bool((gradient == 0).all())


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("size", [1, 3])
def test_consistency_has_no_nan_at_extremes(value: float, size: int) -> None:
    eye = torch.eye(size, dtype=torch.bool)[None]
    for similarity in (torch.full((1, size, size), value), 2 * eye.float() - 1):
        for matches in (eye, ~eye, torch.ones_like(eye), torch.zeros_like(eye)):
            s = similarity.clone().requires_grad_()
            loss = consistency(s, matches)
            (gradient,) = torch.autograd.grad(loss, s)
            assert bool(loss.isfinite())
            assert bool(gradient.isfinite().all())


def test_info_nce_equals_its_formula_and_its_limits() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, queue = (torch.randn(n, 6, generator=generator) for n in (4, 4, 9))
    q.requires_grad_()
    unit = [torch.nn.functional.normalize(t, dim=-1) for t in (q, k, queue)]
    expected = []
    for i in range(4):
        others = torch.cat([unit[1], unit[2]])
        logits = others @ unit[0][i] / 0.3
        expected.append(-(logits[i] - torch.log(logits.exp().sum())))
    value = info_nce(q, k, queue, temperature=0.3)
    torch.testing.assert_close(value, torch.stack(expected).mean())

    same = torch.ones(4, 6)
    torch.testing.assert_close(info_nce(same, same, torch.ones(9, 6)), torch.tensor(math.log(13)))
    assert info_nce(torch.eye(6)[:4], torch.eye(6)[:4], temperature=0.01) < 1e-6


def _one_process(rank: int, world: int, folder: str, data: dict[str, Tensor]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    from situs.methods.s2dc.heads import KeyQueue  # noqa: PLC0415 - in the child process

    mine = slice(rank * 3, rank * 3 + 3)
    queries = data["q"][mine].clone().requires_grad_()
    queue = KeyQueue(size=10, features=5)
    values = []
    for keys in (data["k"], data["k"].flip(0)):
        value = info_nce(queries, keys[mine], queue.keys(), temperature=0.2)
        queue.push(keys[mine])
        values.append(value)
    sum(values).backward()  # type: ignore[union-attr]
    torch.save(
        {"grad": queries.grad, "values": torch.stack(values).detach(), "queue": queue.keys()},
        f"{folder}/{rank}.pt",
    )
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    from situs.methods.s2dc.heads import KeyQueue  # noqa: PLC0415

    generator = torch.Generator().manual_seed(0)
    data = {name: torch.randn(6, 5, generator=generator) for name in "qk"}
    multiprocessing.spawn(_one_process, args=(2, str(tmp_path), data), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]

    queries = data["q"].clone().requires_grad_()
    queue = KeyQueue(size=10, features=5)
    values = []
    for keys in (data["k"], data["k"].flip(0)):
        values.append(info_nce(queries, keys, queue.keys(), temperature=0.2))
        queue.push(keys)
    torch.stack(values).sum().backward()

    # What DDP does with the two processes' values and gradients is to average them.
    averaged = torch.stack([p["values"] for p in parts]).mean(0)
    torch.testing.assert_close(averaged, torch.stack(values).detach())
    torch.testing.assert_close(torch.cat([p["grad"] for p in parts]) / 2, queries.grad)
    for part in parts:
        torch.testing.assert_close(part["queue"], queue.keys())
